"""Simulated people, against servers that draw nothing and keep a diary."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.statistics import typist_figures
from benchmarks.typists import Crowd, dump, parse, rhythm, run

CROWD = Crowd(
    url="", transport="socket", path="/v1/stream", kind="latest", typists=2, keys_per_second=50,
    seconds=0.4, warm_up=0.1, seed=1, stream=0,
)  # fmt: skip


class Server:
    """Answers each key after `seconds`; `most` is the largest number of keys that it had at a time per typist."""

    def __init__(self, seconds: float, refuse: bool = False) -> None:
        self.seconds, self.refuse = seconds, refuse
        self.prompts: list[str] = []
        self.most = 0

    async def stream(self, socket: ServerConnection) -> None:
        assert json.loads(await socket.recv())["type"] == "hello"
        await socket.send('{"type":"ready"}')
        waiting: set[asyncio.Task[None]] = set()
        async for message in socket:
            key = json.loads(message)
            self.prompts.append(key["prompt"])
            task = asyncio.create_task(self._answer(socket, key["seq"]))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            self.most = max(self.most, len(waiting))

    async def _answer(self, socket: ServerConnection, seq: int) -> None:
        await asyncio.sleep(self.seconds)
        if self.refuse:
            await socket.send(json.dumps({"type": "error", "seq": seq, "code": "overloaded"}))
            return
        header = json.dumps({"type": "image", "seq": seq}).encode()
        await socket.send(struct.pack(">I", len(header)) + header + b"picture")

    async def post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            self.prompts.append(json.loads(await reader.readexactly(length))["prompt"])
            await asyncio.sleep(self.seconds)
            status = "503 Busy" if self.refuse else "200 OK"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 7\r\n\r\npicture".encode())


@asynccontextmanager
async def serving(server: Server, transport: str) -> AsyncIterator[str]:
    if transport == "socket":
        async with serve(server.stream, "127.0.0.1", 0) as listening:
            yield f"http://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}"
        return
    handlers: list[asyncio.Task[None] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await server.post(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    post = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with post:
        yield f"http://127.0.0.1:{post.sockets[0].getsockname()[1]}"
        await asyncio.gather(*(handler for handler in handlers if handler))


@pytest.mark.parametrize("transport", ["socket", "post"])
@pytest.mark.parametrize("kind", ["latest", "open"])
async def test_everybody_sees_pictures_whose_age_is_the_servers_time(transport: str, kind: str) -> None:
    server = Server(0.03)
    async with serving(server, transport) as url:
        outcome = await run(replace(CROWD, url=url, transport=transport, kind=kind))
    figures = typist_figures(outcome.typists, outcome.start, outcome.end)
    assert outcome.errors == 0
    assert figures.images_per_s > 10
    assert figures.prompt_age_p50 >= 0.03
    assert len(set(server.prompts)) == len(server.prompts)


async def test_a_latest_wins_client_has_one_request_in_flight_and_skips_keys() -> None:
    server = Server(0.06)
    async with serving(server, "socket") as url:
        outcome = await run(replace(CROWD, url=url))
    assert server.most == 1
    assert len(server.prompts) < sum(len(typist.keys) for typist in outcome.typists)
    assert typist_figures(outcome.typists, outcome.start, outcome.end).superseded_share > 0.3


async def test_an_open_loop_client_sends_every_key() -> None:
    server = Server(0.1)
    async with serving(server, "socket") as url:
        outcome = await run(replace(CROWD, url=url, kind="open"))
    assert server.most > 1
    assert len(server.prompts) == sum(len(typist.keys) for typist in outcome.typists)


@pytest.mark.parametrize("transport", ["socket", "post"])
async def test_refusals_are_counted_and_the_typist_goes_on(transport: str) -> None:
    server = Server(0.0, refuse=True)
    async with serving(server, transport) as url:
        outcome = await run(replace(CROWD, url=url, transport=transport))
    assert outcome.errors > CROWD.typists
    assert not any(typist.shown for typist in outcome.typists)


async def test_an_outcome_survives_the_way_between_two_processes() -> None:
    async with serving(Server(0.01), "socket") as url:
        outcome = await run(replace(CROWD, url=url, seconds=0.1))
    assert parse(json.loads(json.dumps(dump(outcome)))) == outcome


def test_keys_come_at_the_asked_rate_and_the_same_seed_gives_the_same_rhythm() -> None:
    first, second = (list(itertools.islice(rhythm(5.0, 8.0, random.Random(3)), 800)) for _ in range(2))
    assert first == second
    assert 5.0 <= first[0] <= 5.125
    assert first == sorted(first)
    assert (first[-1] - first[0]) / 799 == pytest.approx(1 / 8, rel=0.05)
