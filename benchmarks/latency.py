"""One picture at a time over the wire: seconds from asking to the last byte, every prompt a new one."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.serving import Running
from benchmarks.wire import Http

_WARM_UP = 3


def http_get(server: Running, prompts: Callable[[], str], calls: int) -> list[float]:
    """GET /v1/generate of our server on one kept-alive connection."""

    async def run() -> list[float]:
        async with Http(server.url) as http:
            return await _timed(lambda: http.get("/v1/generate", prompt=prompts()), calls)

    with server.awake():
        return asyncio.run(run())


def http_post(server: Running, prompts: Callable[[], str], calls: int) -> list[float]:
    """POST {"prompt"} to a peer on one kept-alive connection."""

    async def run() -> list[float]:
        async with Http(server.url) as http:
            return await _timed(lambda: http.post(server.server.path, {"prompt": prompts()}), calls)

    with server.awake():
        return asyncio.run(run())


def stream(server: Running, prompts: Callable[[], str], calls: int) -> list[float]:
    """`generate` on our socket to its binary message."""

    async def run() -> list[float]:
        async with open_stream(server.url) as socket:
            await socket.send('{"type":"hello"}')
            seq = 0

            async def one() -> None:
                nonlocal seq
                seq += 1
                await socket.send(json.dumps({"type": "generate", "seq": seq, "prompt": prompts()}))
                while seq_of(await socket.recv()) != seq:
                    pass

            return await _timed(one, calls)

    with server.awake():
        return asyncio.run(run())


async def _timed(call: Callable[[], object], calls: int) -> list[float]:
    seconds = []
    for _ in range(_WARM_UP + calls):
        start = time.perf_counter()
        await call()  # type: ignore[misc]
        seconds.append(time.perf_counter() - start)
    return seconds[_WARM_UP:]


def open_stream(url: str, path: str = "/v1/stream") -> connect:
    """A socket to our server, without compression, with room for any picture."""
    return connect(f"ws://{urlsplit(url).netloc}{path}", compression=None, max_size=None, ping_interval=None)


def seq_of(message: str | bytes) -> int | None:
    """The seq of a picture's binary message; None for control messages. Raises RuntimeError for an error."""
    if isinstance(message, str):
        if (said := json.loads(message)).get("type") == "error":
            raise RuntimeError(f"the server says: {said}")
        return None
    (length,) = struct.unpack_from(">I", message)
    found: int = json.loads(message[4 : 4 + length])["seq"]
    return found


__all__ = ["ClientConnection", "http_get", "http_post", "open_stream", "seq_of", "stream"]
