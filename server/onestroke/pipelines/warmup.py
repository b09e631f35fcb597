"""Warming up: every verb in every bucket through the real path, timed for the cost fits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from onestroke.core import Control, GenerationRequest, SourceImage
from onestroke.errors import ModelError
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.attention import counted_shapes, device_clock, fastest
from onestroke.pipelines.images import encode_image
from onestroke.pipelines.rows import Progress, Timed

if TYPE_CHECKING:
    from onestroke.pipelines.decoder import Decoder
    from onestroke.pipelines.pipeline import Pipeline

REPEATS = 3


def warm_up(pipeline: Pipeline, progress: Progress) -> list[Timed]:
    """Run and time `pipeline`'s verbs, and choose each decoder's sub-batch that is fastest per picture.

    Each verb runs once untimed, which compiles and records what is to be, then three times in each bucket; every
    timing is returned. Last comes one whole picture, from prompt to bytes. Raises ModelError where the model
    draws no finite picture.
    """
    samples: list[Timed] = []
    jobs = list(_jobs(pipeline))
    for done, job in enumerate(jobs):
        progress(f"{pipeline.first_run} {job.what}, bucket {job.n} of {job.largest}", done / len(jobs))
        job.run()
        for _ in range(REPEATS):
            synchronize(pipeline.device)
            start = time.perf_counter()
            job.run()
            synchronize(pipeline.device)
            job.seconds.append(time.perf_counter() - start)
        if job.decoder is None or job.decoder is pipeline.decoder:
            samples += [Timed(job.verb, job.n, seconds, job.steered) for seconds in job.seconds]
    for decoder in pipeline.distinct_decoders:
        decoder.batch = fastest_decode({job.n: min(job.seconds) for job in jobs if job.decoder is decoder})
    pipeline.text.cache.clear()
    one_picture(pipeline)
    progress("warm", 1.0)
    return samples


@torch.inference_mode()
def measured_attention(pipeline: Pipeline) -> str:
    """The kernel that is fastest for what one step of one row and one of the largest bucket ask for together."""
    rows = [sample_row(pipeline, seed) for seed in range(pipeline.max_batch)]
    pipeline.encode(rows)
    with counted_shapes() as shapes:
        for n in (1, len(rows)):
            for row in rows[:n]:
                row.step = 0
            pipeline.step(rows[:n])
    device = pipeline.device
    chosen, _ = fastest(shapes, device, pipeline.dtype, device_clock(device))
    pipeline.text.cache.clear()
    return chosen


def fastest_decode(seconds: Mapping[int, float]) -> int:
    """Of sub-batches and the least time each took, the one with the least time per picture.

    A larger one must gain 5%, since it holds pictures back.
    """
    each = {n: seconds[n] / n for n in sorted(seconds)}
    best = min(each)
    for n in each:
        if each[n] < 0.95 * each[best]:
            best = n
    return best


@dataclass(slots=True)
class _Job:
    verb: str
    what: str
    n: int
    largest: int
    run: Callable[[], object]
    decoder: Decoder | None = None
    steered: int = 0
    seconds: list[float] = field(default_factory=list)


def _jobs(pipeline: Pipeline) -> Iterator[_Job]:
    rows = [sample_row(pipeline, seed) for seed in range(pipeline.max_batch)]

    def encode() -> None:
        pipeline.text.cache.clear()
        pipeline.encode(rows[: pipeline.text.bucket])

    def step(n: int) -> None:
        for row in rows[:n]:
            row.step = 0
        pipeline.step(rows[:n])

    @torch.inference_mode()
    def steered(name: str, hint: torch.Tensor, n: int) -> None:
        control = Control(name, SourceImage("", b""))
        for row in rows:
            row.request, row.hint = replace(row.request, control=control), hint
        step(n)
        for row in rows:
            row.request, row.hint = replace(row.request, control=None), None

    def decode(decoder: Decoder, n: int) -> None:
        with pipeline.on_device():
            decoder.start([row.sent.wait() for row in rows[:n]]).wait()

    encoded = min(len(rows), pipeline.text.bucket)
    yield _Job("encode", "text encoders", encoded, pipeline.text.bucket, encode)
    pipeline.encode(rows)
    buckets = pipeline.denoiser.buckets
    for n in buckets:
        yield _Job("step", "UNet", n, buckets[-1], partial(step, n))
    for name, net in pipeline.controls.items():
        blank = torch.zeros(*reversed(pipeline.spec.default_size), 3, dtype=torch.uint8)
        with pipeline.on_device():
            hint = net.hint("", lambda: blank)  # noqa: B023  called at once
        for n in buckets:
            run = partial(steered, name, hint, n)
            yield _Job("step", f"ControlNet {name}", n, buckets[-1], run, steered=n)
    for decoder in pipeline.distinct_decoders:
        batches = [n for n in decoder.batches if n <= len(rows)]
        for n in batches:
            what = f"{'tiny' if decoder.is_tiny else 'full'} decoder"
            yield _Job("decode", what, n, batches[-1], partial(decode, decoder, n), decoder)


def sample_row(pipeline: Any, seed: int) -> Any:
    """A row of an engine at its model's defaults."""
    return pipeline.prepare(-1 - seed, sample_request(pipeline.spec, seed))


def sample_request(spec: ModelSpec, seed: int) -> GenerationRequest:
    """One picture at the defaults of `spec`, unguided."""
    width, height = spec.default_size
    steps = spec.default_steps
    return GenerationRequest(
        model=spec.name,
        prompt=f"warming up {seed}",
        seed=seed,
        steps=steps,
        sampler=spec.sampler,
        timesteps=dict(spec.timesteps).get(steps),
        width=width,
        height=height,
        whole=spec.whole,
    )


def one_picture(pipeline: Any) -> None:
    """From prompt to bytes by an engine's own verbs. Raises ModelError where nothing finite comes out."""
    row = sample_row(pipeline, 0)
    pipeline.encode([row])
    while not row.finished:
        if pipeline.step([row]).failed:
            raise ModelError(f"{pipeline.spec.name} draws no picture: {row.error}")
    for _, pictures in pipeline.decode([row]):
        encode_image(pictures[0], row.request)


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
