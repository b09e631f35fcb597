"""A worker on a device: ready after a real picture, ended by a spoilt device, not by a lack of memory."""

from __future__ import annotations

import asyncio

import pytest
import torch

from onestroke.app import serving, until_ready
from onestroke.core import GenerationRequest
from onestroke.errors import DeviceLost, GenerationFailed, WorkerDied
from onestroke.metrics import Metrics
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.device import device_errors
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.rows import Stepped
from onestroke.scheduling.rows import Lane
from onestroke.scheduling.scheduler import Scheduler, Ticket
from onestroke.settings import Settings
from tests.gpu.poison import ENGINE, load_poisonable, spoil
from tests.pipelines.tiny_models import SIZE

WITHIN = 240.0


def submit(scheduler: Scheduler, prompt: str) -> Ticket:
    request = GenerationRequest("tiny", prompt, 1, width=SIZE, height=SIZE)
    return scheduler.submit(request, lane=Lane.BULK, tenant=prompt, timeout=WITHIN)


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
async def test_a_spoilt_device_ends_its_worker_and_memory_that_is_short_does_not(spec: ModelSpec) -> None:
    settings = Settings(device="cuda", threads=1, max_batch=4, compile="off", max_wait=WITHIN)
    metrics = Metrics()
    async with serving(settings, [spec], metrics, engine=ENGINE, quiet=True) as scheduler:
        stages: list[str] = []
        scheduler.watch(lambda: stages.append(scheduler.progress().stage))
        await asyncio.wait_for(until_ready(scheduler), WITHIN)
        assert "warm" in stages, "ready follows the warm-up, whose end is a whole picture"
        (first,) = scheduler.workers()
        assert "graphs" in first.notes[0]
        with pytest.raises(GenerationFailed, match="out of memory"):
            await submit(scheduler, "oom").picture
        assert scheduler.workers() == [first], "the same process goes on"
        fox, poison, hen = (submit(scheduler, prompt) for prompt in ("a fox", "poison", "a hen"))
        assert (await asyncio.wait_for(fox.picture, WITHIN)).data
        assert (await asyncio.wait_for(hen.picture, WITHIN)).data
        with pytest.raises(WorkerDied, match="device lost"):
            await asyncio.wait_for(poison.picture, WITHIN)
        await asyncio.wait_for(until_ready(scheduler), WITHIN)
        (last,) = scheduler.workers()
        assert last.pid != first.pid


def test_the_poison_spoils_the_device_and_a_lack_of_memory_does_not(spec: ModelSpec) -> None:
    """The hook itself, on the CPU."""
    pipeline = load_poisonable(spec, device="cpu", dtype="float32")

    def step(prompt: str) -> Stepped:
        rows = [pipeline.prepare(0, GenerationRequest("tiny", prompt, 1, width=SIZE, height=SIZE))]
        pipeline.encode(rows)
        return pipeline.step(rows)

    with pytest.raises(torch.OutOfMemoryError):
        step("oom")
    with pytest.raises(DeviceLost):
        step("poison")
    assert step("a fox").finished


def test_an_error_of_the_device_is_told_from_one_of_the_request(fast: Pipeline, device: str) -> None:
    if device == "cpu":
        with pytest.raises(DeviceLost, match="answers no more"), device_errors(fast.device):
            spoil(fast.device)
    with pytest.raises(RuntimeError, match="shape"), device_errors(fast.device):
        raise RuntimeError("a shape is wrong")
