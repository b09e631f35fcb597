"""After a storm of bad input and callers that vanish, the server is as it was."""

from __future__ import annotations

import asyncio
import json
import random
import re

import httpx
import psutil
import pytest
import websockets

from tests.servers import Server

pytestmark = pytest.mark.integration

JUNK = [
    "{",
    "[]",
    "null",
    '"' + "x" * 50_000 + '"',
    b"\x00\xff" * 100,
    '{"type":"generate","seq":1,"prompt":"' + "y" * 100_000 + '"}',
    '{"type":"hello","type":"hello"}',
    '{"type":"cancel","seq":99999999}',
    '{"type":"ping"}',
]


async def vandal(server: Server, seed: int) -> None:
    """Says hello or not, throws junk and keys, then drops the connection without a word."""
    chance = random.Random(seed)
    socket = await websockets.connect(server.socket_url, max_size=None)
    try:
        if chance.random() < 0.8:
            await socket.send(json.dumps({"type": "hello"}))
        for seq in range(12):
            await socket.send(chance.choice(JUNK))
            await socket.send(json.dumps({"type": "generate", "seq": seq, "prompt": f"slow {seed} {seq}"}))
            await asyncio.sleep(0.01 * chance.random())
    except websockets.ConnectionClosed:
        return
    socket.transport.abort()


async def quitter(client: httpx.AsyncClient, seed: int) -> None:
    """Asks for a picture and hangs up before it comes."""
    try:
        await client.get("/v1/generate", params={"prompt": f"slow {seed}"}, timeout=0.05 + seed % 5 / 20)
    except httpx.HTTPError:
        return


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics", timeout=30)).text
    return {
        name: float(value)
        for name, value in re.findall(r"^(onestroke_(?:sessions|backlog)) (\S+)$", text, re.M)
    }


async def test_a_storm_leaves_nothing_behind(double_server: Server) -> None:
    process = psutil.Process(double_server.process.pid)
    async with httpx.AsyncClient(base_url=double_server.url) as client:

        async def storm(first: int) -> int:
            """Memory in bytes once everything has settled."""
            await asyncio.gather(
                *(vandal(double_server, first + i) for i in range(20)),
                *(quitter(client, first + i) for i in range(20)),
            )
            for _ in range(200):
                if await gauges(client) == {"onestroke_sessions": 0.0, "onestroke_backlog": 0.0}:
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(f"not settled: {await gauges(client)}")
            return int(process.memory_info().rss)

        await storm(0)
        settled = await storm(100)
        open_files = process.num_fds()
        for round_ in range(2, 6):
            last = await storm(100 * round_)
        assert process.num_fds() <= open_files + 4
        assert last - settled < 20e6, "memory does not grow with the storms"
        answer = await client.get("/v1/generate", params={"prompt": "a fox"}, timeout=30)
        assert answer.status_code == 200
