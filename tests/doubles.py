"""Doubles at the two seams: a link to a worker on virtual time, and an engine for a real worker process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onestroke.core import FitKey, GenerationRequest
from onestroke.errors import DeviceLost, GenerationFailed, InvalidRequest
from onestroke.metrics import Metrics
from onestroke.models.catalog import CATALOG
from onestroke.models.specs import ModelSpec
from onestroke.scheduling.scheduler import Scheduler
from onestroke.settings import Settings
from onestroke.workers.messages import (
    Command,
    Drop,
    Pass,
    PassDone,
    PictureDone,
    Prepare,
    Ready,
    RowFailed,
    Sample,
)

SPEC = CATALOG["embedded"]


def request(prompt: str = "a fox", **changes: Any) -> GenerationRequest:
    return GenerationRequest(**{"model": "embedded", "prompt": prompt, "seed": 1, **changes})


@dataclass
class Cost:
    """seconds = base + slope * n for each verb; the defaults are a GPU's, roughly."""

    encode: tuple[float, float] = (0.001, 0.0002)
    step: tuple[float, float] = (0.004, 0.001)
    control: tuple[float, float] = (0.003, 0.002)
    decode: tuple[float, float] = (0.002, 0.001)

    def of(self, verb: str, n: int) -> float:
        base, slope = getattr(self, verb)
        return base + slope * n if n else 0.0

    def samples(self, sizes: Sequence[int] = (1, 2, 4, 8, 16), model: str = "embedded") -> tuple[Sample, ...]:
        verbs = ("encode", "step", "decode")
        return tuple(Sample(FitKey(model), verb, n, self.of(verb, n)) for verb in verbs for n in sizes)


@dataclass
class FakeLink:
    """A worker on the loop's own clock. `passes` is what it was asked to do; `hold` makes it hang; `others` are the
    costs of models beside the embedded one."""

    scheduler: Scheduler
    name: str = "worker-0"
    cost: Cost = field(default_factory=Cost)
    others: dict[str, Cost] = field(default_factory=dict)
    hold: bool = False
    fail: set[str] = field(default_factory=set)
    passes: list[Pass] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    killed: str | None = None
    requests: dict[int, GenerationRequest] = field(default_factory=dict)

    def start(self) -> FakeLink:
        self.scheduler.on_start(self)
        samples = [*self.cost.samples()]
        for model, cost in self.others.items():
            samples += cost.samples(model=model)
        self.scheduler.on_reply(self, Ready("fake", "float32", 1, 1, tuple(samples)))
        return self

    def send(self, command: Command) -> None:
        match command:
            case Prepare():
                self.requests.update(dict(command.rows))
            case Drop():
                self.dropped.extend(command.rows)
                for row in command.rows:
                    self.requests.pop(row, None)
            case Pass():
                self.passes.append(command)
                if not self.hold:
                    self._run(command)

    def kill(self, reason: str) -> None:
        self.killed = reason
        self.scheduler.on_lost(self, reason)

    def _run(self, order: Pass) -> None:
        loop = asyncio.get_running_loop()
        unet_rows = sum(self.requests[row].unet_rows for row in order.step)
        steered = sum(self.requests[row].steered_rows for row in order.step)
        cost = self.others.get(order.fit.model, self.cost)
        seconds = [
            cost.of("encode", len(order.encode)),
            cost.of("step", unet_rows) + cost.of("control", steered),
            cost.of("decode", len(order.decode)),
        ]
        samples = tuple(
            Sample(order.fit, verb, n, took, steered if verb == "step" else 0)
            for verb, n, took in zip(
                ("encode", "step", "decode"),
                (len(order.encode), unet_rows, len(order.decode)),
                seconds,
                strict=True,
            )
            if n
        )
        loop.call_later(sum(seconds), self._done, order, samples)

    def _done(self, order: Pass, samples: tuple[Sample, ...]) -> None:
        if self.killed:
            return
        for row in order.decode:
            if row not in self.requests:
                continue
            if self.requests[row].prompt in self.fail:
                self.scheduler.on_reply(self, RowFailed(row, _failure()))
            else:
                data = self.requests[row].prompt.encode()
                self.scheduler.on_reply(
                    self, PictureDone(row, data, False, None, len(order.step), 0.001, 0.001, 0.001, 0.0005)
                )
        self.scheduler.on_reply(self, PassDone(order.id, samples))


def _failure() -> Any:
    from onestroke.errors import to_wire

    return to_wire(GenerationFailed("poison"))


def make_scheduler(**changes: Any) -> Scheduler:
    """Inside a running loop."""
    return Scheduler(Settings(**{"max_batch": 16, **changes}), Metrics())


# -- an engine for a real worker process ---------------------------------------------------------------------


@dataclass
class FakeRow:
    id: int
    request: GenerationRequest
    truncated: bool = False
    revised_prompt: str | None = None
    error: Exception | None = None


@dataclass
class FakeStepped:
    failed: list[FakeRow]


class FakeEngine:
    """Draws a plain colour. Words in a prompt make it misbehave: crash, hang, lost, boom, nan, refuse, slow.

    It puts elphants right.
    """

    device = "fake"
    dtype = "float32"
    threads = 1

    def prepare(self, row_id: int, request: GenerationRequest) -> FakeRow:
        if "refuse" in request.prompt:
            raise InvalidRequest("refused while preparing", "prompt")
        right = request.prompt.replace("elphant", "elephant")
        revised = right if right != request.prompt else None
        return FakeRow(row_id, request, truncated=len(request.prompt) > 200, revised_prompt=revised)

    def encode(self, rows: Sequence[FakeRow]) -> None:
        pass

    def step(self, rows: Sequence[FakeRow]) -> FakeStepped:
        time.sleep(0.01 + 0.002 * len(rows))
        failed = []
        for row in rows:
            if "crash" in row.request.prompt:
                os.kill(os.getpid(), 9)
            if "lost" in row.request.prompt:
                raise DeviceLost("an illegal memory access")
            if "hang" in row.request.prompt:
                time.sleep(3600)
            if "slow" in row.request.prompt:
                time.sleep(0.4)
            if "boom" in row.request.prompt:
                raise RuntimeError("boom in the batch")
            if "nan" in row.request.prompt:
                row.error = GenerationFailed("its latents are not finite")
                failed.append(row)
        return FakeStepped(failed)

    def decode(self, rows: Sequence[FakeRow]) -> Iterator[tuple[list[FakeRow], list[Any]]]:
        for row in rows:
            shade = sum(row.request.prompt.encode()) % 256
            yield [row], [np.full((row.request.height, row.request.width, 3), shade, np.uint8)]

    def warm_up(self, report: Any) -> list[tuple[str, int, float]]:
        report("warming up", 0.5)
        return [("encode", 1, 0.001), ("step", 1, 0.012), ("step", 8, 0.026), ("decode", 1, 0.001)]

    def notes(self) -> list[str]:
        return ["a double"]


def load_fake(specs: Sequence[ModelSpec], **_: Any) -> dict[str, FakeEngine]:
    if "broken" in (spec.name for spec in specs):
        from onestroke.errors import ModelError

        raise ModelError("broken: the weights are cut short")
    return {spec.name: FakeEngine() for spec in specs}


FAKE_ENGINE = "tests.doubles:load_fake"
