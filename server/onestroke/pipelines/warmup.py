"""Warming up: every verb in every bucket through the real path, timed for the cost fits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from onestroke.core import GenerationRequest
from onestroke.errors import ModelError
from onestroke.pipelines.images import encode_image
from onestroke.pipelines.rows import Progress, Row, Timed

if TYPE_CHECKING:
    from onestroke.pipelines.pipeline import Pipeline

DECODE_BATCHES = (1, 2, 4)
_REPEATS = 3


def warm_up(pipeline: Pipeline, progress: Progress) -> list[Timed]:
    """Run and time `pipeline`'s verbs, and choose the decode sub-batch that is fastest per picture.

    Each verb runs once untimed, then three times in each bucket; every timing is returned. Last comes one whole
    picture, from prompt to bytes. Raises ModelError where the model draws no finite picture.
    """
    samples: list[Timed] = []
    jobs = list(_jobs(pipeline))
    for done, (verb, n, job) in enumerate(jobs):
        progress(f"warming up: {verb} of {n}", done / len(jobs))
        job()
        for _ in range(_REPEATS):
            _synchronize(pipeline.device)
            start = time.perf_counter()
            job()
            _synchronize(pipeline.device)
            samples.append(Timed(verb, n, time.perf_counter() - start))
    pipeline.decode_batch = fastest_decode(samples)
    pipeline.text.cache.clear()
    _one_picture(pipeline)
    progress("warm", 1.0)
    return samples


def fastest_decode(samples: list[Timed]) -> int:
    """The sub-batch with the least time per picture; a larger one must gain 5%, since it holds pictures back.

    The best of the repeats counts: what else the machine does only ever adds time.
    """
    times: dict[int, float] = {}
    for verb, n, seconds in samples:
        if verb == "decode":
            times[n] = min(times.get(n, math.inf), seconds / n)
    best = min(times)
    for n in sorted(times):
        if times[n] < 0.95 * times[best]:
            best = n
    return best


def _jobs(pipeline: Pipeline) -> Iterator[tuple[str, int, Callable[[], object]]]:
    rows = [_row(pipeline, seed) for seed in range(pipeline.max_batch)]

    def encode() -> None:
        pipeline.text.cache.clear()
        pipeline.encode(rows[: pipeline.text.bucket])

    def step(n: int) -> None:
        for row in rows[:n]:
            row.step = 0
        pipeline.step(rows[:n])

    def decode(n: int) -> None:
        pipeline.decode_batch = n
        list(pipeline.decode(rows[:n]))

    yield "encode", min(len(rows), pipeline.text.bucket), encode
    pipeline.encode(rows)
    for n in pipeline.denoiser.buckets:
        yield "step", n, lambda n=n: step(n)  # type: ignore[misc]
    for n in DECODE_BATCHES:
        if n <= len(rows):
            yield "decode", n, lambda n=n: decode(n)  # type: ignore[misc]


def _row(pipeline: Pipeline, seed: int) -> Row:
    spec = pipeline.spec
    width, height = spec.default_size
    steps = spec.default_steps
    request = GenerationRequest(
        model=spec.name,
        prompt=f"warming up {seed}",
        seed=seed,
        steps=steps,
        sampler=spec.sampler,
        timesteps=dict(spec.timesteps).get(steps),
        width=width,
        height=height,
    )
    return pipeline.prepare(-1 - seed, request)


def _one_picture(pipeline: Pipeline) -> None:
    row = _row(pipeline, 0)
    pipeline.encode([row])
    while not row.finished:
        if pipeline.step([row]).failed:
            raise ModelError(f"{pipeline.spec.name} draws no picture: {row.error}")
    for _, pictures in pipeline.decode([row]):
        encode_image(pictures[0], row.request)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
