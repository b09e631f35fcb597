"""A typing session over `/v1/stream` that outlives its connections.

One prompt matters, the newest. It is sent at once when there is a connection, and again on the next one when the
connection broke, or its server is draining, before the picture came: nothing else needs to be remembered, so any
replica can go on. A draining server finishes what it has accepted, so its connection is read to the end while
the next is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Any, Unpack

import websockets
from websockets.asyncio.client import ClientConnection, connect

from onestroke_client.errors import (
    ConnectionFailed,
    InvalidRequest,
    OnestrokeError,
    Superseded,
    TimedOut,
    Unauthorized,
    from_message,
)
from onestroke_client.picture import Drawing, Format, Picture, from_binary, spelled, to_binary

OPEN_TIMEOUT = 10.0
SEND_TIMEOUT = 10.0
PING_EVERY = 15.0
PING_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 3.0
"""Seconds between attempts to connect, doubled from one to the other."""
MAX_MESSAGE = 1 << 26

REFUSALS: dict[int, type[OnestrokeError]] = {4401: Unauthorized, 1008: InvalidRequest}
"""Close codes after which coming back is of no use."""


@dataclass(slots=True)
class Key:
    """The newest prompt as it is sent, and until when (monotonic) its picture is waited for.

    `sources` are the pictures that it refers to, by id.
    """

    seq: int
    message: str
    until: float
    sources: Mapping[str, bytes]
    answered: bool = False


class Connection:
    """One socket. `sent` is the highest seq that it carried; `over` is set when the next is to be opened.

    `kept` are the ids of the pictures that the server has: those of the newest key, each sent once.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.sent = -1
        self.kept: set[str] = set()
        self.over = asyncio.Event()

    async def send(self, key: Key) -> None:
        """A connection that breaks or clogs is over; the key goes out again on the next."""
        if key.answered or key.seq <= self.sent:
            return
        self.sent = key.seq
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                for message in self._due(key):
                    await self.socket.send(message)
        except TimeoutError:
            self.socket.transport.abort()
        except websockets.ConnectionClosed:
            self.over.set()

    def _due(self, key: Key) -> list[str | bytes]:
        """What goes before the key, and the key."""
        stale, missing = self.kept - key.sources.keys(), key.sources.keys() - self.kept
        self.kept = set(key.sources)
        return [
            *(json.dumps({"type": "forget", "id": name}) for name in stale),
            *(to_binary({"type": "image", "id": name}, key.sources[name]) for name in missing),
            key.message,
        ]


class Stream:
    """Type prompts in, iterate pictures out: one at a time, never an older one after a newer one.

    Made by `AsyncClient.stream()`. A consumer that is slower than the pictures sees the newest. One seed holds
    for the whole stream unless another is given. `type` and `draw` and the iteration raise what the server said
    about the newest prompt (the stream can be used on), Unauthorized or InvalidRequest when it can never work.
    """

    def __init__(
        self, url: str, api_key: str | None, timeout: float, format: Format, drawing: Drawing
    ) -> None:
        self._url = url.replace("http", "ws", 1) + "/v1/stream"
        self._hello = json.dumps(
            {"type": "hello", "format": format, **({"token": api_key} if api_key else {})}
        )
        self._timeout = timeout
        self._drawing: Drawing = {"seed": secrets.randbelow(2**32), **drawing}
        self._seq = -1
        self._shown = -1
        self._key: Key | None = None
        self._picture: Picture | None = None
        self._error: OnestrokeError | None = None
        self._fatal: OnestrokeError | None = None
        self._closed = False
        self._changed = asyncio.Event()
        self._waiters: dict[int, asyncio.Future[Picture]] = {}
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reason = "no answer"

    async def __aenter__(self) -> Stream:
        """Raises ConnectionFailed when there is no connection within the client's time-out."""
        self._start(self._run())
        try:
            async with asyncio.timeout(self._timeout):
                await self._connected.wait()
        except TimeoutError:
            await self.aclose()
            raise ConnectionFailed(
                f"no stream from {self._url} in {self._timeout:g} s: {self._reason}"
            ) from None
        except BaseException:
            await self.aclose()
            raise
        if self._fatal:
            await self.aclose()
            raise self._fatal
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what is open; iterations end, and who waits in `draw` gets ConnectionFailed."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_waiters(ConnectionFailed("the stream was closed"))
        self._changed.set()

    # -- typing ---------------------------------------------------------------------------------------------

    async def type(self, prompt: str, **drawing: Unpack[Drawing]) -> None:
        """The newest prompt replaces the one that waits; a blank one is not sent, and nothing is owed for it.

        Returns when it is sent, or when it is known to be sent on reconnection.
        """
        if prompt.strip():
            await self._send(prompt, self._timeout, drawing)
        else:
            self._key = None

    async def draw(self, prompt: str, *, timeout: float | None = None, **drawing: Unpack[Drawing]) -> Picture:
        """Type it and wait for its own picture. Raises TimedOut, or Superseded when a newer prompt was drawn."""
        timeout = self._timeout if timeout is None else timeout
        future: asyncio.Future[Picture] = asyncio.get_running_loop().create_future()
        self._waiters[seq := self._seq + 1] = future
        try:
            async with asyncio.timeout(timeout):
                await self._send(prompt, timeout, drawing)
                return await future
        except TimeoutError:
            raise TimedOut(f"no picture of {prompt!r} in {timeout:g} s") from None
        finally:
            del self._waiters[seq]

    async def _send(self, prompt: str, timeout: float, drawing: Drawing) -> None:
        if self._closed:
            raise ConnectionFailed("the stream is closed")
        if self._fatal:
            raise self._fatal
        self._seq += 1
        sources: dict[str, bytes] = {}

        def refer(data: bytes) -> str:
            sources[name := blake2b(data, digest_size=16).hexdigest()] = data
            return name

        fields = spelled({**self._drawing, **drawing}, refer)
        message = {"type": "generate", "seq": self._seq, "prompt": prompt, **_wire(fields)}
        self._key = Key(self._seq, json.dumps(message), time.monotonic() + timeout, sources)
        self._error = None
        self._changed.set()
        if self._connection:
            await self._connection.send(self._key)

    # -- pictures -------------------------------------------------------------------------------------------

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Picture:
        """The next picture. Raises TimedOut when the newest prompt's does not come in the time allowed."""
        while True:
            if self._picture:
                picture, self._picture = self._picture, None
                return picture
            if self._error:
                error, self._error = self._error, None
                raise error
            if self._fatal:
                raise self._fatal
            if self._closed:
                raise StopAsyncIteration
            waiting = self._key if self._key and not self._key.answered else None
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, waiting.until - time.monotonic()) if waiting else None):
                    await self._changed.wait()
            except TimeoutError:
                assert waiting
                waiting.answered = True  # given up: it is not sent again
                raise TimedOut("no picture of the newest prompt in the time allowed") from None

    # -- connections ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Always one connection to type on, until the stream is closed or can never work."""
        pause = SHORTEST_PAUSE
        while not self._fatal:
            try:
                socket = await connect(
                    self._url,
                    open_timeout=OPEN_TIMEOUT,
                    close_timeout=CLOSE_TIMEOUT,
                    ping_interval=PING_EVERY,
                    ping_timeout=PING_TIMEOUT,
                    compression=None,
                    max_size=MAX_MESSAGE,
                )
            except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
                self._reason = str(error)
                if isinstance(error, websockets.InvalidStatus) and 400 <= error.response.status_code < 429:
                    self._give_up(InvalidRequest(f"the stream is refused: {error}"))
            else:
                connection = Connection(socket)
                began = time.monotonic()
                self._start(self._read(connection))
                await self._adopt(connection)
                await connection.over.wait()
                self._connection = None
                if time.monotonic() - began > LONGEST_PAUSE:
                    pause = SHORTEST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _adopt(self, connection: Connection) -> None:
        """Say hello and the newest prompt, if its picture is still to come; from now on prompts go here."""
        with contextlib.suppress(websockets.ConnectionClosed):
            await connection.socket.send(self._hello)
        self._connection = connection
        if self._key:
            await connection.send(self._key)

    async def _read(self, connection: Connection) -> None:
        """Until the server closes it: a draining one still sends what it has accepted."""
        try:
            async for message in connection.socket:
                if isinstance(message, bytes):
                    self._deliver(*from_binary(message))
                else:
                    await self._hear(json.loads(message), connection)
        except websockets.ConnectionClosed as error:
            self._reason = str(error)
        finally:
            connection.over.set()
            await connection.socket.close()
        if refused := REFUSALS.get(connection.socket.close_code or 0):
            self._give_up(refused(connection.socket.close_reason or "the stream is refused"))

    async def _hear(self, message: Mapping[str, Any], connection: Connection) -> None:
        self._connected.set()
        match message["type"]:
            case "draining":
                connection.over.set()
            case "error" if self._key and message.get("seq") == self._key.seq and not self._key.answered:
                error = from_message(message)
                if error.retryable:
                    await asyncio.sleep(min(error.retry_after or 0.0, LONGEST_PAUSE))
                    connection.over.set()
                else:
                    self._fail(self._key, error)
            case "error" if self._key and message.get("id") in self._key.sources and not self._key.answered:
                self._fail(self._key, from_message(message))

    def _deliver(self, seq: int, picture: Picture) -> None:
        if seq <= self._shown:
            return
        self._shown, self._picture, self._error = seq, picture, None
        if self._key and seq == self._key.seq:
            self._key.answered = True
        for waiting, future in self._waiters.items():
            if not future.done() and waiting <= seq:
                if waiting == seq:
                    future.set_result(picture)
                else:
                    future.set_exception(Superseded("a newer prompt was drawn instead"))
        self._changed.set()

    def _fail(self, key: Key, error: OnestrokeError) -> None:
        key.answered = True
        if future := self._waiters.get(key.seq):
            if not future.done():
                future.set_exception(error)
        else:
            self._error = error
            self._changed.set()

    def _give_up(self, error: OnestrokeError) -> None:
        self._fatal = error
        self._fail_waiters(error)
        self._connected.set()
        self._changed.set()

    def _fail_waiters(self, error: OnestrokeError) -> None:
        for future in self._waiters.values():
            if not future.done():
                future.set_exception(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._give_up(ConnectionFailed(f"the server is not understood: {error!r}"))


def _wire(fields: dict[str, Any]) -> dict[str, Any]:
    """The stream takes a size as width and height. Raises InvalidRequest."""
    if size := fields.pop("size", None):
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit()):
            raise InvalidRequest(f"size must be WIDTHxHEIGHT, got {size!r}", field="size")
        fields["width"], fields["height"] = int(width), int(height)
    return fields
