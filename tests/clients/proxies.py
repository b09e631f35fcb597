"""A TCP relay in front of a server: it can break what is open, and send what comes next elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class Relay:
    """`target` is where the next connections go; None lets nobody through."""

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.url = ""
        self.accepted = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._relaying: set[asyncio.Task[None]] = set()

    def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._relaying.add(task)
        task.add_done_callback(self._relaying.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.target is None:
            writer.transport.abort()
            return
        self.accepted += 1
        address = urlsplit(self.target)
        far_reader, far_writer = await asyncio.open_connection(address.hostname, address.port)
        ends = {writer, far_writer}
        self._open |= ends
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._open -= ends

    def cut(self) -> None:
        """Break every connection without a word, as a killed server's machine does."""
        for writer in self._open:
            writer.transport.abort()

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._relaying)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def relaying(target: str | None) -> AsyncIterator[Relay]:
    relay = Relay(target)
    listener = await asyncio.start_server(relay.relay, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        listener.close()
        await relay.close()
