"""The verbs over a diffusers pipeline: `step` is its whole call, and `decode` hands out what the call has drawn.

The same seam as `pipelines.pipeline`. A pipeline keeps its state on itself, so it is called by the device's thread
alone, its tokenizers included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from onestroke.core import GenerationRequest
from onestroke.errors import DeviceLost, GenerationFailed, ModelError, OnestrokeError
from onestroke.pipelines.device import device_errors
from onestroke.pipelines.generic.calls import Call
from onestroke.pipelines.images import Pixels, encode_image
from onestroke.pipelines.pipeline import check_request
from onestroke.pipelines.rows import Progress, Timed
from onestroke.pipelines.warmup import sample_request, synchronize


@dataclass(slots=True, eq=False)
class WholeRow:
    """One picture; there is nothing of it on the device between two calls."""

    id: int
    request: GenerationRequest
    truncated: bool = False
    revised_prompt: None = None
    pixels: Pixels | None = None
    error: OnestrokeError | None = None

    @property
    def finished(self) -> bool:
        return self.pixels is not None


class Stepped(NamedTuple):
    """What a call did: rows that are drawn, and rows that failed (each with its `error` set)."""

    finished: list[WholeRow]
    failed: list[WholeRow]


class WholePipeline:
    """One diffusers pipeline on one device. Made by `generic.loading.load`.

    `buckets` are the batch sizes that the warm-up draws in, rising. `max_batch` is the most rows in one call, the
    last of them or what the device has memory for.
    """

    def __init__(
        self, call: Call, pipeline: Any, device: torch.device, dtype: torch.dtype, buckets: tuple[int, ...]
    ) -> None:
        self.spec = call.spec
        self.device = device
        self.dtype = dtype
        self.threads = torch.get_num_threads()
        self.max_batch = buckets[-1]
        self._buckets = buckets
        self.calls = 0
        self._call = call
        self._pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)

    def prepare(self, row_id: int, request: GenerationRequest) -> WholeRow:
        """A new row. Any thread. Raises InvalidRequest naming the field that this model cannot serve."""
        check_request(request, self.spec)
        self._call.check(request)
        return WholeRow(row_id, request)

    def encode(self, rows: Sequence[WholeRow]) -> None:
        """Say whose prompt is longer than the pipeline reads; it encodes them itself."""
        for row in rows:
            row.truncated = self._is_truncated(row.request.prompt)

    def _is_truncated(self, prompt: str) -> bool:
        """By the last tokenizer: where there are several, it is the one whose reading the call bounds."""
        parts = sorted(self._pipeline.components.items())
        tokenizers = [part for _, part in parts if isinstance(part, PreTrainedTokenizerBase)]
        if not tokenizers:
            return False
        tokenizer = tokenizers[-1]
        text = prompt
        if tokenizer.chat_template:
            message = [{"role": "user", "content": prompt}]
            text = str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
        limit = self._call.text_limit or tokenizer.model_max_length
        return len(tokenizer(text, verbose=False)["input_ids"]) > limit

    @torch.inference_mode()
    def step(self, rows: Sequence[WholeRow]) -> Stepped:
        """Draw every row, in one call or, where memory is short, in a few. They share size, steps and guidance.

        A row whose picture is not finite gets a GenerationFailed as its `error`; the others are unharmed.
        """
        for start in range(0, len(rows), self.max_batch):
            self._draw(rows[start : start + self.max_batch])
        return Stepped([row for row in rows if row.finished], [row for row in rows if row.error])

    def _draw(self, rows: Sequence[WholeRow]) -> None:
        self.calls += 1
        with device_errors(self.device):
            images = self._pipeline(**self._call.arguments([row.request for row in rows])).images
        for row, image in zip(rows, np.asarray(images, np.float32), strict=True):
            asked = (row.request.height, row.request.width, 3)
            if image.shape != asked:
                row.error = GenerationFailed(f"its pipeline drew {image.shape} in place of {asked}")
            elif not np.isfinite(image).all():
                row.error = GenerationFailed("its picture is not finite")
            else:
                row.pixels = (image * 255).round().astype(np.uint8)

    def decode(self, rows: Sequence[WholeRow]) -> Iterator[tuple[list[WholeRow], list[Pixels]]]:
        """The pictures, (height, width, 3) uint8."""
        drawn = [(row, row.pixels) for row in rows if row.pixels is not None]
        yield [row for row, _ in drawn], [pixels for _, pixels in drawn]

    def warm_up(self, progress: Progress = lambda stage, fraction: None) -> list[Timed]:
        """Draw in batches of 1 (twice, the first untimed), 2, 4 and so on, and say what each call took.

        Where memory ends, so does it: larger passes are drawn in calls that fit. Raises ModelError where it draws
        no finite picture.
        """
        samples: list[Timed] = []
        sizes = (1, *self._buckets)
        for done, n in enumerate(sizes):
            progress(f"warming up, {n} of {self.max_batch} in a call", done / len(sizes))
            rows = [WholeRow(-1 - request.seed, request) for request in self._samples(n)]
            began = time.perf_counter()
            try:
                failed = self.step(rows).failed
            except torch.OutOfMemoryError as error:
                if n == 1:
                    raise ModelError(f"{self.spec.name} has no memory to draw on {self.device}") from error
                self.max_batch = sizes[done - 1]
                break
            except DeviceLost:
                raise
            except Exception as error:
                raise ModelError(f"{self.spec.name} draws no picture: {error}") from error
            if failed:
                raise ModelError(f"{self.spec.name} draws no picture: {failed[0].error}")
            synchronize(self.device)
            if done:
                samples.append(Timed("step", n, time.perf_counter() - began))
            else:
                for _, (pixels,) in self.decode(rows):
                    encode_image(pixels, rows[0].request)
        progress("warm", 1.0)
        return samples

    def _samples(self, n: int) -> list[GenerationRequest]:
        """Guided where the model's own recipe is: a call that is not takes another way."""
        guidance = self.spec.guidance_scale
        return [replace(sample_request(self.spec, seed), guidance_scale=guidance) for seed in range(n)]

    def notes(self) -> list[str]:
        """What it runs in, for the log."""
        kind = str(self.dtype).removeprefix("torch.")
        return [f"{kind}, eager, {type(self._pipeline).__name__}: {self.max_batch} pictures a call at most"]
