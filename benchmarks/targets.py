"""Pipelines that draw in this very process, each behind the same verb: prompts in, finished JPEG bytes out.

torch is imported here and in what this imports alone; `child` runs it in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, Self

import torch

from benchmarks.options import COMPILE_MODES, ModelOptions
from benchmarks.peers.diffusers_call import CompiledCall, DiffusersCall
from benchmarks.peers.stream_diffusion import StreamDiffusionCall
from benchmarks.roofline import Op, Recorder, synchronize
from benchmarks.weights import parts_of, spec_of
from onestroke.core import GenerationRequest
from onestroke.levers import Levers
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.images import encode_image
from onestroke.pipelines.loading import load, pick_device, pick_dtype
from onestroke.pipelines.parts import Parts
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.transfer import Transfers
from onestroke.pipelines.warmup import sample_request

STAGES = ("text", "unet", "decode", "encode")


class Target(Protocol):
    spec: ModelSpec
    device: str
    dtype: str
    threads: int
    torch_dtype: torch.dtype
    unet_config: Mapping[str, Any]

    def draw(self, prompts: Sequence[str]) -> list[bytes]:
        """Finished pictures of one batch."""
        ...

    def warm_up(self, batches: Sequence[int], prompts: Callable[[int], list[str]]) -> None: ...

    def count(self, prompts: Sequence[str]) -> dict[str, list[Op]]:
        """The operators with arithmetic that drawing one batch runs, by stage (see `roofline`)."""
        ...


class Ours:
    """The pipeline as the server's worker runs it, warmed up by the same call, without worker and server."""

    def __init__(self, options: ModelOptions) -> None:
        self.spec = spec_of(options)
        where = pick_device(options.device)
        dtype = pick_dtype(self.spec.dtype if options.dtype == "auto" else options.dtype, where)
        self._take(options, parts_of(options, dtype))

    @classmethod
    def of(cls, options: ModelOptions, parts: Parts) -> Self:
        """Over parts in memory, which are used up."""
        target = cls.__new__(cls)
        target.spec = spec_of(options)
        target._take(options, parts)
        return target

    def _take(self, options: ModelOptions, parts: Parts) -> None:
        pipeline = load(
            self.spec,
            device=options.device,
            dtype=options.dtype,
            threads=options.threads or None,
            max_batch=options.max_batch,
            levers=levers_of(options.levers),
            parts=parts,
        )
        if not isinstance(pipeline, Pipeline):
            raise TypeError(f"{self.spec.name} has no UNet: the benchmark measures none such yet")
        self.pipeline: Any = pipeline
        self.device = str(self.pipeline.device)
        self.torch_dtype = self.pipeline.dtype
        self.unet_config = self.pipeline.denoiser.unet.config
        self.dtype = str(self.torch_dtype).removeprefix("torch.")
        self.threads = self.pipeline.threads
        self._drawn = 0

    def warm_up(self, batches: Sequence[int], prompts: Callable[[int], list[str]]) -> None:
        self.pipeline.warm_up()
        for n in batches:
            self.draw(prompts(n))

    def draw(self, prompts: Sequence[str]) -> list[bytes]:
        rows = self._rows(prompts)
        self.pipeline.encode(rows)
        self._step(rows)
        return [
            encode_image(pixels, row.request)
            for part, pictures in self.pipeline.decode(rows)
            for row, pixels in zip(part, pictures, strict=True)
        ]

    @contextmanager
    def sampled(self, steps: int, guidance: float, sampler: str) -> Iterator[None]:
        """Other steps, guidance and sampler for the block."""
        own = self.spec
        self.spec = self.pipeline.spec = replace(
            own, default_steps=steps, max_steps=steps, guidance_scale=guidance, sampler=sampler, timesteps=()
        )
        try:
            yield
        finally:
            self.spec = self.pipeline.spec = own

    def stages(self, prompts: Sequence[str]) -> dict[str, float]:
        """Seconds of each stage for one batch: text = tokens, noise and text encoders; encode = JPEG.

        On a card transfer too: the copies alone, which run beside the other stages.
        """
        marks = [self._mark()]
        rows = self._rows(prompts)
        self.pipeline.encode(rows)
        marks.append(self._mark())
        self._step(rows)
        marks.append(self._mark())
        decoded = [pair for part in self.pipeline.decode(rows) for pair in zip(*part, strict=True)]
        marks.append(self._mark())
        for row, pixels in decoded:
            encode_image(pixels, row.request)
        marks.append(self._mark())
        found = {name: marks[i + 1] - marks[i] for i, name in enumerate(STAGES)}
        if self.pipeline.device.type != "cpu":
            found["transfer"] = self.transfer(len(prompts))
        return found

    def transfer(self, n: int) -> float:
        """Seconds to send `n` rows' noise up and to bring as many pictures down, with nothing else to do."""
        device, (width, height) = self.pipeline.device, self.spec.default_size
        rows = self._rows(["copied"] * n)
        noise = [row.noise.draw() for row in rows]
        pictures = torch.zeros(n, height, width, 3, dtype=torch.uint8, device=device)
        transfers = Transfers(device)
        start = self._mark()
        for upload in [transfers.up(each) for each in noise]:
            upload.wait()
        transfers.down(pictures).wait()
        return self._mark() - start

    def count(self, prompts: Sequence[str]) -> dict[str, list[Op]]:
        rows = self._rows(prompts)
        recorder = Recorder("text")
        with recorder:
            self.pipeline.encode(rows)
            recorder.stage = "unet"
            self._step(rows)
            recorder.stage = "decode"
            list(self.pipeline.decode(rows))
        return recorder.stages

    def _mark(self) -> float:
        synchronize(self.pipeline.device)
        return time.perf_counter()

    def _rows(self, prompts: Sequence[str]) -> list[Any]:
        self._drawn += len(prompts)
        return [self.pipeline.prepare(i, self._request(prompt, i)) for i, prompt in enumerate(prompts)]

    def _request(self, prompt: str, i: int) -> GenerationRequest:
        sample = sample_request(self.spec, self._drawn + i)
        return replace(sample, prompt=prompt, guidance_scale=self.spec.guidance_scale)

    def _step(self, rows: list[Any]) -> None:
        while not rows[0].finished:
            if failed := self.pipeline.step(rows).failed:
                raise RuntimeError(f"a picture failed: {failed[0].error}")


def levers_of(asked: Mapping[str, str]) -> Levers:
    """As `onestroke serve` takes them, values not checked."""
    values: dict[str, Any] = {**asked}
    if "prompt_cache" in values:
        values["prompt_cache"] = int(values["prompt_cache"])
    return Levers(**values)


def make(name: str, options: ModelOptions, compile_mode: str = COMPILE_MODES[0]) -> Target:
    """`ours`, `diffusers_eager`, `diffusers_compiled` or `streamdiffusion`. Raises KeyError for another name."""
    makers: dict[str, Callable[[], Target]] = {
        "ours": lambda: Ours(options),
        "diffusers_eager": lambda: DiffusersCall(options),
        "diffusers_compiled": lambda: CompiledCall(options, compile_mode),
        "streamdiffusion": lambda: StreamDiffusionCall(options),
    }
    return makers[name]()
