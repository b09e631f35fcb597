"""People and apps at a server, by the Python client: what they asked for, what they got, phase by phase.

Callers ask for one picture after another and never try again (unless told to), so that what the balancer and the
server lose is seen. A typist types a phrase key by key, then waits for the picture of the whole phrase.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from onestroke_client import AsyncClient, OnestrokeError, Stream

PHRASES = (
    "red apple on a blue background",
    "a sleepy panda on pink",
    "yellow star",
    "a small green frog on orange",
)
KEYS_PER_SECOND = 8.0
READING = 0.3
"""Seconds that a typist looks at the picture before the next phrase."""
AFTER_A_FAILURE = 0.1
TIMEOUT = 70.0


@dataclass
class Phase:
    """What happened to work that ended in it. Times in seconds."""

    name: str
    answered: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    drawn: list[float] = field(default_factory=list)
    undrawn: Counter[str] = field(default_factory=Counter)

    async def underway(self) -> None:
        """Returns once somebody of each kind has got something. Raises TimeoutError."""
        async with asyncio.timeout(TIMEOUT):
            while not (self.answered and self.drawn):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    @property
    def clean(self) -> bool:
        return bool(self.answered and self.drawn) and not self.failed and not self.undrawn


class Load:
    """`callers` and `typists` at `url` for as long as `running` lasts."""

    def __init__(self, url: str, callers: int, typists: int, *, retries: int = 0) -> None:
        self._url, self._callers, self._typists, self._retries = url, callers, typists, retries
        self._stopping = asyncio.Event()
        self.phases: list[Phase] = []

    def enter(self, name: str) -> Phase:
        self.phases.append(Phase(name))
        return self.phases[-1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everybody is given the time to end what they have begun."""
        async with AsyncClient(self._url, timeout=TIMEOUT, retries=self._retries) as client:
            work: list[Coroutine[Any, Any, None]] = [self._call(client, i) for i in range(self._callers)]
            work += [self._type(client, i) for i in range(self._typists)]
            async with asyncio.TaskGroup() as tasks:
                for each in work:
                    tasks.create_task(each)
                yield
                self._stopping.set()

    async def _call(self, client: AsyncClient, who: int) -> None:
        for i in itertools.count():
            if self._stopping.is_set():
                return
            began = time.monotonic()
            try:
                await client.generate(f"{PHRASES[i % len(PHRASES)]}, {who}/{i}")
                self.phases[-1].answered.append(time.monotonic() - began)
            except OnestrokeError as error:
                self.phases[-1].failed[f"{type(error).__name__} ({error.code or error})"] += 1
                await asyncio.sleep(AFTER_A_FAILURE)

    async def _type(self, client: AsyncClient, who: int) -> None:
        chance = random.Random(who)
        async with client.stream() as stream:
            for i in itertools.count(who):
                if self._stopping.is_set():
                    return
                try:
                    seconds = await _phrase(stream, PHRASES[i % len(PHRASES)], chance)
                    self.phases[-1].drawn.append(seconds)
                except OnestrokeError as error:
                    self.phases[-1].undrawn[f"{type(error).__name__} ({error.code or error})"] += 1
                await asyncio.sleep(READING)


async def _phrase(stream: Stream, phrase: str, chance: random.Random) -> float:
    """Seconds from the last key to its picture."""
    for end in range(1, len(phrase)):
        await stream.type(phrase[:end])
        await asyncio.sleep(chance.uniform(0.5, 1.5) / KEYS_PER_SECOND)
    began = time.monotonic()
    await stream.draw(phrase)
    return time.monotonic() - began


def show(phases: list[Phase], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("phase", "REST answered", "failed", "p50", "p99", "max",
                   "phrases typed", "last key drawn", "p50", "p99", "max"):  # fmt: skip
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in phases:
        table.add_row(
            phase.name,
            str(len(phase.answered)),
            str(phase.failed.total()),
            *_spread(phase.answered),
            str(len(phase.drawn) + phase.undrawn.total()),
            str(len(phase.drawn)),
            *_spread(phase.drawn),
        )
    Console(width=130).print(table)
    for phase in phases:
        for reason, times in (phase.failed + phase.undrawn).items():
            print(f"{phase.name}: {times} x {reason}")


def _spread(seconds: list[float]) -> tuple[str, str, str]:
    if len(seconds) < 2:
        return "-", "-", "-"
    cuts = quantiles(seconds, n=100, method="inclusive")
    return tuple(f"{value:.2f} s" for value in (cuts[49], cuts[98], max(seconds)))  # type: ignore[return-value]
