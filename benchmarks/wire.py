"""The smallest HTTP/1.1 client that keeps a connection alive: its cost must not show in what it measures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import TracebackType
from urllib.parse import quote, urlsplit


class BadAnswer(Exception):
    """A server answered, but not with 200."""


class Http:
    """One kept-alive connection, one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get(self, path: str, **query: str) -> bytes:
        asked = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        return await self._call("GET", f"{path}?{asked}" if asked else path, b"")

    async def post(self, path: str, body: object) -> bytes:
        return await self._call("POST", path, json.dumps(body).encode())

    async def _call(self, method: str, path: str, body: bytes) -> bytes:
        """The body of a 200. Raises BadAnswer for any other status, OSError when the connection breaks."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}\r\n".encode() + body)
        try:
            status, *fields = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(field.lower().split(": ", 1) for field in fields if field)
            answer = await self._reader.readexactly(int(headers["content-length"]))
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("the server closed the connection") from error
        if status.split()[1] != "200":
            raise BadAnswer(f"{status}: {answer[:200]!r}")
        return answer

    async def close(self) -> None:
        writer, self._reader, self._writer = self._writer, None, None
        if writer:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
