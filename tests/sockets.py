"""A client's end of a typing socket without a network: what the server awaits and sends, on any loop."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

from onestroke.api.context import Context
from onestroke.api.stream import Conversation
from onestroke.metrics import Metrics
from onestroke.models.catalog import CATALOG
from onestroke.scheduling.scheduler import Scheduler


class FakeSocket:
    """`reading` False is a client that has stopped reading: sends to it never return."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.pictures: list[tuple[dict[str, Any], bytes]] = []
        self.closed: tuple[int, str] | None = None
        self.reading = asyncio.Event()
        self.reading.set()

    # the server's side

    async def receive(self) -> dict[str, Any]:
        return await self.inbox.get()

    async def send_text(self, text: str) -> None:
        await self.reading.wait()
        self.sent.append(json.loads(text))

    async def send_bytes(self, message: bytes) -> None:
        await self.reading.wait()
        (length,) = struct.unpack_from(">I", message)
        self.pictures.append((json.loads(message[4 : 4 + length]), message[4 + length :]))

    async def close(self, code: int, reason: str = "") -> None:
        self.closed = (code, reason)

    # the client's side

    def say(self, **message: Any) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    def say_raw(self, **frame: Any) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", **frame})

    def leave(self) -> None:
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["type"] == kind]

    @property
    def shown(self) -> list[int]:
        return [header["seq"] for header, _ in self.pictures]


def converse(scheduler: Scheduler, **settings: Any) -> tuple[FakeSocket, asyncio.Task[None]]:
    """A conversation that has said hello."""
    socket = FakeSocket()
    changed = scheduler.settings.model_copy(update=settings)
    context = Context(changed, (CATALOG["embedded"],), scheduler, Metrics())
    task = asyncio.create_task(Conversation(socket, context).run())  # type: ignore[arg-type]
    socket.say(type="hello")
    return socket, task
