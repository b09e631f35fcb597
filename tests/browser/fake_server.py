"""A tiny server that speaks Onestroke's wire with drawn squares, and misbehaves on command.

`FakeServer` runs it in a thread. A test sets the fields of `behaviour`, reads `received`, and reaches into open
sockets with `say`, `send_picture` and `close_sockets`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

WEB = Path(__file__).parents[2] / "clients" / "web"
POLICY = "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
SESSION_SEED = 4242

MODEL: dict[str, Any] = {
    "name": "embedded",
    "description": "A small model for tests",
    "limits": "squares alone",
    "memory_bytes": 500_000_000,
    "licence": {
        "name": "Apache-2.0",
        "terms": "commercial use allowed",
        "url": "https://www.apache.org/licenses/",
    },
    "default_steps": 1,
    "max_steps": 8,
    "only_steps": [],
    "sizes": [[512, 512]],
    "guidance_scale": 0.0,
}


def colour(prompt: str, seed: int) -> tuple[int, int, int]:
    """The colour of a prompt's picture: a test can tell from a pixel whose picture is shown."""
    value = crc32(f"{prompt}|{seed}".encode())
    return value >> 16 & 255, value >> 8 & 255, value & 255


def draw(prompt: str, seed: int, size: tuple[int, int], image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour(prompt, seed)).save(buffer, image_format.upper())
    return buffer.getvalue()


def frame(header: dict[str, Any], image: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack(">I", len(encoded)) + encoded + image


@dataclass
class Behaviour:
    """What the server does next. `delay` and `refusal_delay` (of a wrong key) are in seconds, `warmup` lists
    (stage, fraction) before ready."""

    delay: float = 0.0
    refusal_delay: float = 0.0
    warmup: tuple[tuple[str, float], ...] = ()
    warmup_step: float = 0.1
    silent: bool = False
    mute_pings: bool = False
    truncate_after: int = 200
    refuse_with: int | None = None
    key: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=lambda: dict(MODEL))
    others: tuple[dict[str, Any], ...] = ()
    limits: dict[str, Any] = field(default_factory=lambda: {"max_prompt_chars": 1000})


class Session:
    """One socket: newest request wins, one picture at a time."""

    def __init__(self, server: FakeServer, websocket: WebSocket) -> None:
        self.server = server
        self.websocket = websocket
        self.format = "jpeg"
        self.waiting: dict[str, Any] | None = None
        self.wake = asyncio.Event()

    async def run(self) -> None:
        behaviour = self.server.behaviour
        await self.websocket.accept()
        if behaviour.refuse_with is not None:
            await self.websocket.close(behaviour.refuse_with, "not here")
            return
        self.server.sessions.append(self)
        painter: asyncio.Task[None] | None = None
        try:
            hello = await self._read()
            if behaviour.key is not None and hello.get("token") != behaviour.key:
                await asyncio.sleep(behaviour.refusal_delay)
                await self.websocket.close(1008, "hello needs a valid token")
                return
            self.format = hello.get("format") or "jpeg"
            for stage, fraction in behaviour.warmup:
                await self.websocket.send_json({"type": "status", "stage": stage, "fraction": fraction})
                await asyncio.sleep(behaviour.warmup_step)
            if not behaviour.silent:
                ready = {
                    "type": "ready",
                    "session": "s1",
                    "model": behaviour.model,
                    "models": [behaviour.model, *behaviour.others],
                    "limits": behaviour.limits,
                }
                await self.websocket.send_json(ready)
            painter = asyncio.create_task(self._paint())
            while True:
                await self._answer(await self._read())
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self.server.sessions.remove(self)
            if painter:
                painter.cancel()

    async def _read(self) -> dict[str, Any]:
        frame = await self.websocket.receive()
        if frame["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(frame.get("code", 1000))
        if data := frame.get("bytes"):
            (length,) = struct.unpack_from(">I", data)
            message = {**json.loads(data[4 : 4 + length]), "data": data[4 + length :]}
        else:
            message = json.loads(frame["text"])
        self.server.received.append(message)
        return message

    async def _answer(self, message: dict[str, Any]) -> None:
        behaviour = self.server.behaviour
        match message["type"]:
            case "generate" if behaviour.errors:
                await self.websocket.send_json(
                    {"type": "error", "seq": message["seq"], **behaviour.errors.pop(0)}
                )
            case "generate":
                if self.waiting:
                    await self.websocket.send_json({"type": "superseded", "through": self.waiting["seq"]})
                self.waiting = message
                self.wake.set()
            case "cancel":
                self.waiting = None
            case "image" if behaviour.errors:
                await self.websocket.send_json(
                    {"type": "error", "id": message["id"], **behaviour.errors.pop(0)}
                )
            case "image":
                with Image.open(io.BytesIO(message["data"])) as image:
                    width, height = image.size
                kept = {"type": "kept", "id": message["id"], "width": width, "height": height}
                await self.websocket.send_json(kept)
            case "ping" if not behaviour.mute_pings:
                await self.websocket.send_json({"type": "pong"})

    async def _paint(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            request, self.waiting = self.waiting, None
            if request is None:
                continue
            await asyncio.sleep(self.server.behaviour.delay)
            await self.send_picture(request)

    async def send_picture(self, request: dict[str, Any]) -> None:
        prompt, seed = request["prompt"], request.get("seed", SESSION_SEED)
        size = request.get("width", 512), request.get("height", 512)
        header = {
            "type": "image",
            "seq": request["seq"],
            "seed": seed,
            "content_type": f"image/{self.format}",
            "width": size[0],
            "height": size[1],
            "steps": request.get("steps", 1),
            "prompt": prompt,
            "model": request.get("model", self.server.behaviour.model["name"]),
            "truncated": len(prompt) > self.server.behaviour.truncate_after,
            "revised_prompt": prompt.replace("elphant", "elephant") if "elphant" in prompt else None,
            "timings": {"queue": 0.1, "encode": 1.0, "step": 5.0, "decode": 3.0, "image": 1.0},
            "batch_size": 1,
        }
        await self.websocket.send_bytes(frame(header, self.server.draw(prompt, seed, size, self.format)))


class FakeServer:
    """The server in a thread, at `url`. Use as a context manager."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.received: deque[dict[str, Any]] = deque(maxlen=1000)
        self.sessions: list[Session] = []
        self.draw = draw
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Also after `stop`: it comes back at the same address."""
        config = uvicorn.Config(
            self._app(), port=self._port, log_level="critical", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)

    def stop(self) -> None:
        assert self._server
        assert self._thread
        self._server.should_exit = True
        self._thread.join(10)

    def reset(self) -> None:
        self.behaviour = Behaviour()
        self.received.clear()
        self.draw = draw

    def behave(self, **changes: Any) -> None:
        self.behaviour = replace(self.behaviour, **changes)

    def generates(self) -> list[dict[str, Any]]:
        return [message for message in list(self.received) if message["type"] == "generate"]

    def say(self, message: dict[str, Any]) -> None:
        """Sends a text message into every open socket."""
        for session in list(self.sessions):
            self._do(session.websocket.send_json(message))

    def send_bytes(self, data: bytes) -> None:
        for session in list(self.sessions):
            self._do(session.websocket.send_bytes(data))

    def send_picture(self, **request: Any) -> None:
        for session in list(self.sessions):
            self._do(session.send_picture(request))

    def close_sockets(self, code: int) -> None:
        for session in list(self.sessions):
            self._do(session.websocket.close(code))

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        async def unless_it_has_left() -> None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await coroutine

        assert self._loop
        asyncio.run_coroutine_threadsafe(unless_it_has_left(), self._loop).result(5)

    def _app(self) -> Starlette:
        async def page(_: Request) -> Response:
            return FileResponse(WEB / "index.html", headers={"Content-Security-Policy": POLICY})

        async def picture(request: Request) -> Response:
            query = request.query_params
            if not query["prompt"]:
                error = {
                    "code": "invalid_request",
                    "message": "The prompt is empty.",
                    "param": "prompt",
                    "type": "",
                }
                return JSONResponse({"error": error}, 400)
            image_format = query.get("format", "jpeg")
            data = self.draw(query["prompt"], int(query.get("seed", SESSION_SEED)), (512, 512), image_format)
            return Response(data, media_type=f"image/{image_format}")

        async def models(_: Request) -> Response:
            return JSONResponse({"object": "list", "data": [{"id": "embedded", "onestroke": MODEL}]})

        async def blank(_: Request) -> Response:
            return HTMLResponse('<!doctype html><link rel="icon" href="data:,">')

        async def stream(websocket: WebSocket) -> None:
            self._loop = asyncio.get_running_loop()
            await Session(self, websocket).run()

        return Starlette(
            routes=[
                Route("/", page),
                Route("/blank", blank),
                Route("/v1/models", models),
                Route("/v1/generate", picture),
                WebSocketRoute("/v1/stream", stream),
                Mount("/static", StaticFiles(directory=WEB)),
            ]
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
