"""Pipelines that draw in this very process, each behind the same verb: prompts in, finished JPEG bytes out.

torch is imported here and in what this imports alone; `child` runs it in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from benchmarks.options import ModelOptions
from benchmarks.peers.diffusers_call import DiffusersCall
from onestroke.core import GenerationRequest
from onestroke.models.catalog import ModelSpec
from onestroke.models.choosing import choose
from onestroke.pipelines.images import encode_image
from onestroke.pipelines.loading import load

STAGES = ("text", "unet", "decode", "encode")


class Target(Protocol):
    spec: ModelSpec
    device: str
    dtype: str
    threads: int

    def draw(self, prompts: Sequence[str]) -> list[bytes]:
        """Finished pictures of one batch."""
        ...

    def warm_up(self, batches: Sequence[int], prompts: Callable[[int], list[str]]) -> None: ...


class Ours:
    """The pipeline as the server's worker runs it, warmed up by the same call, without worker and server."""

    def __init__(self, options: ModelOptions) -> None:
        self.spec = choose(options.model).spec
        self.pipeline = load(
            self.spec, device=options.device, dtype=options.dtype, threads=options.threads or None
        )
        self.device = str(self.pipeline.device)
        self.dtype = str(self.pipeline.dtype).removeprefix("torch.")
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

    def stages(self, prompts: Sequence[str]) -> dict[str, float]:
        """Seconds of each stage for one batch: text = tokens, noise and text encoders; encode = JPEG."""
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
        return {name: marks[i + 1] - marks[i] for i, name in enumerate(STAGES)}

    def _mark(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def _rows(self, prompts: Sequence[str]) -> list[Any]:
        self._drawn += len(prompts)
        return [self.pipeline.prepare(i, self._request(prompt, i)) for i, prompt in enumerate(prompts)]

    def _request(self, prompt: str, i: int) -> GenerationRequest:
        spec, steps = self.spec, self.spec.default_steps
        width, height = spec.default_size
        return GenerationRequest(
            model=spec.name,
            prompt=prompt,
            seed=self._drawn + i,
            steps=steps,
            guidance_scale=spec.guidance_scale,
            sampler=spec.sampler,
            timesteps=dict(spec.timesteps).get(steps),
            width=width,
            height=height,
        )

    def _step(self, rows: list[Any]) -> None:
        while not rows[0].finished:
            if failed := self.pipeline.step(rows).failed:
                raise RuntimeError(f"a picture failed: {failed[0].error}")


def make(name: str, options: ModelOptions) -> Target:
    """`ours` or `diffusers_eager`. Raises KeyError for another name."""
    makers: dict[str, Callable[[ModelOptions], Target]] = {"ours": Ours, "diffusers_eager": DiffusersCall}
    return makers[name](options)
