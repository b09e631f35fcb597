"""Warming up: every verb in every bucket through the real path, timed for the cost fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from onestroke.pipelines.decoder import BATCHES, ELSEWHERE
from onestroke.pipelines.rows import Progress, Timed
from onestroke.pipelines.warmup import REPEATS, fastest_decode, one_picture, sample_row, synchronize

if TYPE_CHECKING:
    from onestroke.pipelines.muse.pipeline import MusePipeline


def warm_up(pipeline: MusePipeline, progress: Progress) -> list[Timed]:
    """Run and time `pipeline`'s verbs, and choose the decode sub-batch that is fastest per picture.

    Each verb runs once untimed, then `REPEATS` times in each bucket; every timing is returned. Last comes one whole
    picture, from prompt to bytes. Raises ModelError where the model draws no finite picture.
    """
    samples: list[Timed] = []
    decodes: dict[int, float] = {}
    jobs = list(_jobs(pipeline))
    for done, (verb, n, job) in enumerate(jobs):
        progress(f"warming up {verb} of {n}", done / len(jobs))
        job()
        seconds = []
        for _ in range(REPEATS):
            synchronize(pipeline.device)
            start = time.perf_counter()
            job()
            synchronize(pipeline.device)
            seconds.append(time.perf_counter() - start)
        samples += [Timed(verb, n, each) for each in seconds]
        if verb == "decode":
            decodes[n] = min(seconds)
    pipeline.decode_batch = fastest_decode(decodes)
    pipeline.text.cache.clear()
    one_picture(pipeline)
    progress("warm", 1.0)
    return samples


def _jobs(pipeline: MusePipeline) -> Iterator[tuple[str, int, Callable[[], object]]]:
    rows = [sample_row(pipeline, seed) for seed in range(pipeline.max_batch)]
    encoded = rows[: pipeline.text.bucket]

    def encode() -> None:
        pipeline.text.cache.clear()
        pipeline.encode(encoded)

    def step(n: int, at: int) -> None:
        for row in rows[:n]:
            row.step = at
        pipeline.step(rows[:n])

    def decode(n: int) -> None:
        pipeline.decode_batch = n
        list(pipeline.decode(rows[:n]))

    yield "encode", len(encoded), encode
    pipeline.encode(rows)
    if second := rows[0].second:
        for n in pipeline.transformer.buckets:
            yield "step", n, partial(step, n, 0)
        step(len(rows), second.begins - 1)
    for n in pipeline.transformer.buckets:
        # The last step leaves no mask: those have no pixels.
        yield "step", n, partial(step, n, len(rows[0].steps) - 1)
    for n in BATCHES.get(pipeline.device.type, ELSEWHERE):
        if n <= len(rows):
            yield "decode", n, partial(decode, n)
