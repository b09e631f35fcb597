"""Simulated people who type, in a process of their own so that their work is not the server's.

Each typist presses `keys_per_second` keys a second at times fixed beforehand (seeded: a random phase, and each
interval 0.5 to 1.5 of the mean), whatever the server does; the text after each key is a new prompt. Two kinds:

- `latest`: one request in flight; when it is answered, the newest text is sent next. What a careful page does.
- `open`: every key is sent at once, as most pages do. Over HTTP each request in flight has a connection.

    python -m benchmarks.typists '{"url": ..., "kind": "latest", ...}'     the fields are those of `Crowd`

prints one JSON object: the window, each typist's scheduled keys and the pictures shown (see `statistics` for
the words), and the client's own use of a core. The clock starts once all typists are connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from benchmarks.latency import open_stream, seq_of
from benchmarks.prompts import Prompts
from benchmarks.statistics import Shown, Typed
from benchmarks.wire import BadAnswer, Http

KINDS = ("latest", "open")
PAUSE_AFTER_REFUSAL = 0.05
"""Seconds that a latest-wins client waits after an error before it sends the newest text."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """People who type at one server. Times in seconds; nothing before `warm_up` counts.

    `stream` is the first of `typists` streams of prompts; `timing_seed` fixes when keys are pressed, so that two
    servers can be given the very same rhythm.
    """

    url: str
    transport: str
    path: str
    kind: str
    typists: int
    keys_per_second: float
    seconds: float
    warm_up: float
    seed: int
    stream: int
    timing_seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a crowd saw in the window [start, end) of the client's monotonic clock."""

    start: float
    end: float
    typists: tuple[Typed, ...]
    errors: int
    client_cpu: float
    """Seconds of processor time that the client took per second."""


class Wire(Protocol):
    """A typist's connection. `send` returns once the request is on its way; the answer comes by callback."""

    async def open(self, answered: Callable[[int, bool], None]) -> None:
        """`answered(seq, drawn)` is called for every picture and every refusal."""
        ...

    async def send(self, seq: int, prompt: str) -> None: ...
    async def close(self) -> None: ...


class SocketWire:
    """Our typing socket: one connection, pictures come back in the order of their seq."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, answered: Callable[[int, bool], None]) -> None:
        self._socket = await open_stream(self._crowd.url, self._crowd.path)
        await self._socket.send('{"type":"hello"}')
        while json.loads(await self._socket.recv())["type"] != "ready":
            pass
        self._tasks.append(asyncio.create_task(self._read(answered)))

    async def _read(self, answered: Callable[[int, bool], None]) -> None:
        async for message in self._socket:
            if isinstance(message, bytes):
                seq = seq_of(message)
                assert seq is not None
                answered(seq, True)
            elif (said := json.loads(message))["type"] == "error":
                answered(said.get("seq", -1), False)

    async def send(self, seq: int, prompt: str) -> None:
        await self._socket.send(json.dumps({"type": "generate", "seq": seq, "prompt": prompt}))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._socket.close()


class PostWire:
    """Any server that takes a POST and answers with a picture; connections are kept and used again."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._idle: list[Http] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, answered: Callable[[int, bool], None]) -> None:
        self._answered = answered

    async def send(self, seq: int, prompt: str) -> None:
        task = asyncio.create_task(self._post(seq, prompt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, seq: int, prompt: str) -> None:
        http = self._idle.pop() if self._idle else Http(self._crowd.url)
        try:
            drawn = bool(await http.post(self._crowd.path, {"prompt": prompt}))
        except (BadAnswer, OSError):
            drawn = False
            await http.close()
        except asyncio.CancelledError:
            await http.close()
            raise
        self._idle.append(http)
        self._answered(seq, drawn)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for http in self._idle:
            await http.close()


WIRES: dict[str, Callable[[Crowd], Wire]] = {"socket": SocketWire, "post": PostWire}


@dataclass(slots=True)
class Typist:
    """One person: presses keys, looks at pictures. `keys[seq]` is the scheduled time of that key."""

    wire: Wire
    latest_wins: bool
    keys: list[float] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    errors: int = 0
    _seen: int = -1
    _in_flight: int | None = None
    _newest: tuple[int, str] | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def type(self, rhythm: Iterator[float], prompts: Iterator[str], until: float) -> None:
        """Press keys at the times of `rhythm` (monotonic) until `until`."""
        sender = asyncio.create_task(self._send_newest()) if self.latest_wins else None
        try:
            for seq, (moment, prompt) in enumerate(zip(rhythm, prompts, strict=False)):
                await asyncio.sleep(min(moment, until) - time.monotonic())
                if moment >= until:
                    return
                self.keys.append(moment)
                if sender:
                    self._newest = (seq, prompt)
                    self._wake.set()
                else:
                    await self.wire.send(seq, prompt)
        finally:
            if sender:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sender

    async def _send_newest(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._in_flight is None and self._newest is not None:
                (seq, prompt), self._newest = self._newest, None
                self._in_flight = seq
                await self.wire.send(seq, prompt)

    def answered(self, seq: int, drawn: bool) -> None:
        now = time.monotonic()
        if not drawn:
            self.errors += 1
        elif seq > self._seen:
            self._seen = seq
            self.shown.append(Shown(self.keys[seq], now))
        if seq == self._in_flight:
            asyncio.get_running_loop().call_later(0 if drawn else PAUSE_AFTER_REFUSAL, self._free)

    def _free(self) -> None:
        self._in_flight = None
        self._wake.set()


def rhythm(start: float, keys_per_second: float, chance: random.Random) -> Iterator[float]:
    """When keys are pressed: a random phase, then intervals of 0.5 to 1.5 of the mean."""
    moment = start + chance.random() / keys_per_second
    while True:
        yield moment
        moment += chance.uniform(0.5, 1.5) / keys_per_second


async def run(crowd: Crowd) -> Outcome:
    """Connect everybody, let them type, and say what they saw. Raises OSError when the server is not there."""
    typists = [Typist(WIRES[crowd.transport](crowd), crowd.kind == "latest") for _ in range(crowd.typists)]
    await asyncio.gather(*(typist.wire.open(typist.answered) for typist in typists))
    began = time.monotonic()
    start, end = began + crowd.warm_up, began + crowd.warm_up + crowd.seconds
    used = time.process_time()
    chances = [random.Random(f"{crowd.timing_seed}/{i}") for i in range(crowd.typists)]
    await asyncio.gather(
        *(
            typist.type(
                rhythm(began, crowd.keys_per_second, chances[i]),
                Prompts(crowd.seed, crowd.stream + i).keys(),
                end,
            )
            for i, typist in enumerate(typists)
        )
    )
    used = (time.process_time() - used) / (end - began)
    for typist in typists:
        await typist.wire.close()
    return Outcome(
        start,
        end,
        tuple(Typed(tuple(typist.keys), tuple(typist.shown)) for typist in typists),
        sum(typist.errors for typist in typists),
        used,
    )


def parse(answer: dict[str, Any]) -> Outcome:
    """An Outcome from the JSON that `main` prints."""
    typists = tuple(
        Typed(tuple(each["keys"]), tuple(itertools.starmap(Shown, each["shown"])))
        for each in answer["typists"]
    )
    return Outcome(answer["start"], answer["end"], typists, answer["errors"], answer["client_cpu"])


def dump(outcome: Outcome) -> dict[str, Any]:
    """What `parse` reads."""
    return {
        **{name: value for name, value in asdict(outcome).items() if name != "typists"},
        "typists": [
            {"keys": each.keys, "shown": [(shown.scheduled, shown.arrived) for shown in each.shown]}
            for each in outcome.typists
        ],
    }


def main() -> None:
    outcome = asyncio.run(run(Crowd(**json.loads(sys.argv[1]))))
    print(json.dumps(dump(outcome)))


if __name__ == "__main__":
    main()
