"""The typing socket, `/v1/stream`: JSON text for control, one binary message for each picture.

A reader task takes keys in, a writer task sends what the outbox holds; neither ever waits for the other, so a
slow reader cannot hold up the keys and pongs are never missed. What a key means is decided by `sessions`.

Client: hello{format?, token?}, generate{seq, prompt, model?, seed?, steps?, ...}, cancel{seq}, ping, forget{id}.
A picture to type over is sent once, as a binary message like the server's own whose header is {type: "image", id};
`generate` then refers to its id in `image`, `mask` or `control.image`, until it is forgotten.
Server: status, ready, kept{id, width, height}, superseded{through} (of the keys up to that seq, those not yet being
drawn never will be), error{seq? or id?, code, message, field?, retry_after_ms?}, draining, pong,
and per picture [u32 big-endian header length][UTF-8 JSON header][image bytes].
A server that leaves says `draining`, sends what it owes and closes with 1012; new sockets get a 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect

from onestroke.api.adapters import Adapter, uses_of
from onestroke.api.context import Context, Served
from onestroke.api.edges import preprocesses
from onestroke.api.errors import error_response, first_problem
from onestroke.api.pictures import Upload, aside, resized, with_pictures
from onestroke.api.resolve import Ask, resolve
from onestroke.api.schemas import ControlImage, Expand, margins_of
from onestroke.core import ImageFormat, Picture
from onestroke.errors import Cancelled, InvalidRequest, OnestrokeError, Unavailable
from onestroke.scheduling.rows import Lane
from onestroke.scheduling.scheduler import Ticket
from onestroke.sessions.outbox import Outbound, Outbox, OutboxFull
from onestroke.sessions.shelf import MAX_BYTES, MAX_PICTURES, Shelf
from onestroke.sessions.typing import TypingSession

log = structlog.get_logger(__name__)
router = APIRouter()

HELLO_TIMEOUT = 10.0
KEY_TIMEOUT = 120.0
"""A key waits this long at most; while a worker restarts it is better late than an error on the page."""
MAX_SEQ = 2**53
MAX_TEXT = 1 << 18
"""Characters of a text message."""

POLICY_VIOLATION = 1008
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013
UNAUTHORIZED = 4401


class Hello(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["hello"]
    token: str | None = None
    format: ImageFormat = ImageFormat.JPEG


Name = Annotated[str, Field(min_length=1, max_length=64)]
"""What a client calls a picture that it has sent."""


class KeptControl(ControlImage):
    image: Name


class Key(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["generate"]
    seq: Annotated[int, Field(ge=0, lt=MAX_SEQ)]
    prompt: str
    model: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    sampler: str | None = None
    width: int | None = None
    height: int | None = None
    quality: int | None = None
    adapters: list[Adapter] | None = None
    image: Name | None = None
    strength: float | None = None
    mask: Name | None = None
    expand: Expand | None = None
    control: KeptControl | None = None


class Forget(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["forget"]
    id: Name


class Sent(BaseModel):
    """The header of a picture to type over."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["image"]
    id: Name


class Cancel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["cancel"]
    seq: Annotated[int, Field(ge=0, lt=MAX_SEQ)]


class Ping(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["ping"]


Text = Hello | Key | Cancel | Ping | Forget
Incoming = TypeAdapter[Text](Annotated[Text, Field(discriminator="type")])
TYPES = ("hello", "generate", "cancel", "ping", "forget")


def unpack(message: bytes) -> tuple[str, bytes]:
    """A sent picture's id and bytes. Raises InvalidRequest."""
    try:
        (length,) = struct.unpack_from(">I", message)
        return Sent.model_validate_json(message[4 : 4 + length]).id, message[4 + length :]
    except (struct.error, ValidationError) as error:
        raise InvalidRequest(
            'a binary message is [u32 big-endian header length][{"type": "image", "id": ...}][picture]', "id"
        ) from error


def pack(header: Mapping[str, Any], data: bytes) -> bytes:
    """The binary message of one picture."""
    encoded = msgspec.json.encode(header)
    return struct.pack(">I", len(encoded)) + encoded + data


@router.websocket("/v1/stream")
async def stream(socket: WebSocket, context: Served) -> None:
    if context.scheduler.draining:
        await socket.send_denial_response(
            error_response(Unavailable("the server is leaving", retry_after=1.0))
        )
        return
    await socket.accept()
    if context.metrics.open_sessions >= context.settings.max_sessions:
        context.metrics.rejected.labels(reason="sessions").inc()
        await socket.close(TRY_AGAIN_LATER, "too many sessions")
        return
    with context.metrics.session():
        await Conversation(socket, context).run()


class Conversation:
    """One socket: its session, its tickets, its outbox."""

    def __init__(self, socket: WebSocket, context: Context) -> None:
        self._socket = socket
        self._context = context
        self._scheduler = context.scheduler
        self._name = secrets.token_hex(8)
        self._session = TypingSession()
        self._tickets: dict[int, Ticket] = {}
        self._last: Ticket | None = None
        self._outbox = Outbox()
        self._wake = asyncio.Event()
        self._seed = secrets.randbelow(2**32)
        self._format = ImageFormat.JPEG
        self._shelf = Shelf()
        self._taken: tuple[object, Ask] | None = None
        self._said_ready = False
        self._said_draining = False

    async def run(self) -> None:
        """Until either side leaves; whatever is still being drawn for it is cancelled then."""
        writer = asyncio.create_task(self._write(), name="stream-writer")
        reader = asyncio.create_task(self._read(), name="stream-reader")
        forget = self._scheduler.watch(self._tell_status)
        try:
            await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            forget()
            for task in (reader, writer):
                task.cancel()
            for outcome in await asyncio.gather(reader, writer, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(
                    outcome, WebSocketDisconnect | RuntimeError
                ):
                    log.error("typing session failed", session=self._name, exc_info=outcome)
            for ticket in list(self._tickets.values()):
                ticket.cancel()

    # -- reading --------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                if not await self._hello():
                    return
        except TimeoutError:
            await self._close(POLICY_VIOLATION, "no hello within 10 seconds")
            return
        try:
            self._tell_status()
            while (message := await self._receive()) is not None:
                await self._handle(message)
        except OutboxFull:
            await self._close(POLICY_VIOLATION, "control messages are not being read")

    async def _hello(self) -> bool:
        while (message := await self._receive()) is not None:
            if isinstance(message, Ping):
                self._put({"type": "pong"})
                continue
            if not isinstance(message, Hello):
                self._put_error(InvalidRequest("say hello first", "type"))
                continue
            key = self._context.settings.api_key
            if key is not None and not secrets.compare_digest(message.token or "", key):
                await self._close(UNAUTHORIZED, "this server asks for a key")
                return False
            self._format = message.format
            return True
        return False

    async def _receive(self) -> Text | bytes | None:
        """The next valid message; invalid ones are answered and skipped. None when the client has left."""
        while True:
            frame = await self._socket.receive()
            if frame["type"] == "websocket.disconnect":
                return None
            text = frame.get("text")
            if text is None:
                return bytes(frame.get("bytes") or b"")
            if len(text) > MAX_TEXT:
                self._put_error(InvalidRequest(f"a text message has {MAX_TEXT:,} characters at most"))
                continue
            try:
                return Incoming.validate_json(text)
            except ValidationError as error:
                self._put_error(_explain(error), seq=_seq_of(text))

    async def _handle(self, message: Text | bytes) -> None:
        match message:
            case Key():
                try:
                    await self._key(message)
                except OnestrokeError as error:
                    self._put_error(error, seq=message.seq)
            case Cancel():
                for seq in self._session.cancelled(message.seq):
                    if ticket := self._tickets.pop(seq, None):
                        ticket.cancel()
            case Ping():
                self._put({"type": "pong"})
            case Forget():
                self._shelf.forget(message.id)
                self._taken = None
            case bytes():
                name = None
                try:
                    name, data = unpack(message)
                    await self._keep(name, data)
                except OnestrokeError as error:
                    self._put_error(error, name=name)
            case Hello():
                self._put_error(InvalidRequest("hello was said already", "type"))

    async def _keep(self, name: str, data: bytes) -> None:
        """A picture to type over: looked at now, kept until it is forgotten."""
        self._shelf.put(name, data)
        try:
            width, height = await aside(lambda: Upload(data, "image").size)
        except OnestrokeError:
            self._shelf.forget(name)
            raise
        self._put({"type": "kept", "id": name, "width": width, "height": height})

    async def _with_pictures(self, ask: Ask, key: Key) -> Ask:
        """`ask` with the pictures that `key` refers to, read once for all keys that are typed over them."""
        if key.image is None and key.mask is None and key.control is None:
            return ask
        given = {
            field: None if name is None else self._shelf.get(name, field)
            for field, name in (("image", key.image), ("mask", key.mask))
        }
        steering = None
        if key.control:
            data = self._shelf.get(key.control.image, "control.image")
            steering = replace(key.control.steering(), image=data)
        asked = (ask.model, ask.size, ask.strength, ask.expand, given, steering)
        if self._taken is None or self._taken[0] != asked:
            self._taken = asked, await with_pictures(ask, self._context.specs, **given, steering=steering)
        taken = self._taken[1]
        return replace(ask, image=taken.image, mask=taken.mask, control=taken.control, size=taken.size)

    async def _key(self, key: Key) -> None:
        """A keystroke: replaces the one that waits, never the one that is being drawn."""
        self._session.key(key.seq)
        if (key.width is None) != (key.height is None):
            raise InvalidRequest("width and height go together", "height" if key.height is None else "width")
        ask = Ask(
            prompt=key.prompt,
            model=key.model,
            negative_prompt=key.negative_prompt,
            seed=self._seed if key.seed is None else key.seed,
            steps=key.steps,
            guidance_scale=key.guidance_scale,
            sampler=key.sampler,
            size=None if key.width is None else f"{key.width}x{key.height}",
            format=self._format,
            quality=key.quality,
            decoder="tiny",
            adapters=uses_of(key.adapters),
            strength=key.strength,
            expand=margins_of(key.expand),
        )
        ask = await self._with_pictures(ask, key)
        (request,) = resolve(ask, self._context.specs, self._context.settings.max_prompt_chars)
        waiting = next((seq for seq in self._session.pending if not self._tickets[seq].begun), None)
        running = next((self._tickets[seq] for seq in self._session.pending if seq != waiting), None)
        ticket = self._scheduler.submit(
            request,
            lane=Lane.INTERACTIVE,
            tenant=self._name,
            timeout=KEY_TIMEOUT,
            replaces=None if waiting is None else self._tickets.pop(waiting),
            follows=running or self._last,
        )
        self._session.submitted(key.seq, replaces=waiting)
        if waiting is not None:
            self._supersede(waiting)
        self._tickets[key.seq] = ticket
        ticket.picture.add_done_callback(lambda _: self._answered(key.seq, ticket))

    # -- answers --------------------------------------------------------------------------------------------

    def _answered(self, seq: int, ticket: Ticket) -> None:
        """On the loop, the moment a picture is there or has failed."""
        if self._tickets.get(seq) is not ticket:
            return  # superseded or cancelled: already accounted for
        self._last = self._tickets.pop(seq)
        error = ticket.picture.exception()
        if error is None:
            if self._session.finished(seq):
                self._put_picture(seq, ticket.picture.result(), ticket)
            else:
                self._supersede(seq)
        elif (
            self._session.failed(seq)
            and isinstance(error, OnestrokeError)
            and not isinstance(error, Cancelled)
        ):
            with contextlib.suppress(OutboxFull):
                self._put_error(error, seq=seq)

    def _put_picture(self, seq: int, picture: Picture, ticket: Ticket) -> None:
        request = picture.request
        header = {
            "type": "image",
            "seq": seq,
            "seed": request.seed,
            "prompt": request.prompt,
            "model": request.model,
            "content_type": request.format.media_type,
            "width": request.width,
            "height": request.height,
            "steps": request.steps,
            **resized(request),
            "truncated": picture.truncated,
            "revised_prompt": picture.revised_prompt,
            "batch_size": picture.batch_size,
            "timings": picture.timings.milliseconds(),
        }
        self._context.metrics.keystroke_seconds.observe(self._scheduler.now - ticket.row.accepted)
        self._outbox.put_picture(Outbound(seq, header, picture.data))
        self._wake.set()

    def _supersede(self, seq: int) -> None:
        self._context.metrics.superseded.inc()
        self._outbox.put_superseded(seq)
        self._wake.set()

    def _tell_status(self) -> None:
        """Warm-up progress until ready; then once ready, and once draining; the writer sees a closed server."""
        scheduler = self._scheduler
        if scheduler.draining:
            if not self._said_draining:
                self._said_draining = True
                self._put({"type": "draining"})
            self._wake.set()
        elif scheduler.ready and not self._said_ready:
            self._said_ready = True
            self._put(
                {
                    "type": "ready",
                    "session": self._name,
                    "model": self._context.model_card(self._context.specs[0]),
                    "models": [self._context.model_card(spec) for spec in self._context.specs],
                    "limits": {
                        "max_prompt_chars": self._context.settings.max_prompt_chars,
                        "max_pictures": MAX_PICTURES,
                        "max_picture_bytes": MAX_BYTES,
                        "preprocess": preprocesses(),
                    },
                }
            )
        elif not scheduler.ready:
            self._said_ready = False
            progress = scheduler.progress()
            status = {"type": "status", "stage": progress.stage, "fraction": round(progress.fraction, 3)}
            self._outbox.put_status(status)
            self._wake.set()

    def _put(self, message: Mapping[str, Any]) -> None:
        self._outbox.put(message)
        self._wake.set()

    def _put_error(self, error: OnestrokeError, seq: int | None = None, name: str | None = None) -> None:
        message: dict[str, Any] = {"type": "error", "code": error.code, "message": error.message}
        if seq is not None:
            message["seq"] = seq
        if name is not None:
            message["id"] = name
        if field := getattr(error, "field", None):
            message["field"] = field
        if error.retry_after is not None:
            message["retry_after_ms"] = round(1000 * error.retry_after)
        self._put(message)

    # -- writing --------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (message := self._outbox.take()) is not None:
                if isinstance(message, Outbound):
                    await self._socket.send_bytes(pack(message.header, message.data))
                else:
                    await self._socket.send_text(msgspec.json.encode(message).decode())
            if self._scheduler.closed and not self._tickets:
                await self._close(SERVICE_RESTART, "the server is leaving; come back")
                return

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.close(code, reason)


def _explain(error: ValidationError) -> InvalidRequest:
    """As over HTTP, without the discriminator's tag in the field's path."""
    problem: dict[str, Any] = {**error.errors(include_url=False)[0]}
    problem["loc"] = tuple(part for part in problem["loc"] if part not in TYPES)
    if not problem["loc"] and problem["type"] != "json_invalid":
        return InvalidRequest(f"type must be one of {', '.join(TYPES)}", "type")
    return first_problem([problem])


def _seq_of(text: str) -> int | None:
    """The seq of a message that is otherwise wrong, so that its sender can tell which one it was."""
    with contextlib.suppress(msgspec.MsgspecError):
        message = msgspec.json.decode(text)
        if isinstance(message, dict) and isinstance(seq := message.get("seq"), int):
            return seq
    return None
