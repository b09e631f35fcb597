"""The door, for every route and the socket alike: Host, Origin, key, body size. Pure ASGI.

Any web page can make a browser talk to localhost, so Host (against DNS rebinding) and Origin are checked on
loopback too. The body is bounded before anything reads it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onestroke.api.errors import envelope
from onestroke.metrics import Metrics
from onestroke.settings import Settings, is_loopback

MAX_BODY = 1 << 20
MAX_PICTURES_BODY = 24 << 20
"""For the routes that take pictures; each of those is bounded by itself (see `pictures`)."""
PICTURE_PATHS = ("/v1/generate", "/v1/images/edits")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
OPEN_PATHS = ("/livez", "/readyz", "/metrics", "/static/", "/favicon.ico", "/docs", "/openapi.json")
ADMIN_PATH = "/admin/"
FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-real-ip", "via"})
POLICY_VIOLATION = 1008


class Refusal(Exception):
    """(status, message, code) of a request that does not get past the door."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Guard:
    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        most = MAX_PICTURES_BODY if scope["path"] in PICTURE_PATHS else MAX_BODY
        try:
            check_host(headers, self._settings)
            check_origin(headers, self._settings)
            if scope["type"] == "http":
                check_key(scope, headers, self._settings)
                check_length(headers, most)
        except Refusal as refusal:
            self._metrics.rejected.labels(reason=refusal.code).inc()
            await _refuse(scope, receive, send, refusal)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        await self._app(scope, _bounded(receive, most), self._counted(scope, send))

    def _counted(self, scope: Scope, send: Send) -> Send:
        """Counts the answer under its route's template, so that paths cannot flood the label."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.requests.labels(route=route, code=str(message["status"])).inc()
            await send(message)

        return counted


def check_host(headers: Mapping[str, str], settings: Settings) -> None:
    """Raises Refusal. A server bound to all addresses without `allowed_hosts` answers to any name."""
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    if host in LOOPBACK_NAMES.union(settings.allowed_hosts, {settings.host}):
        return
    if not settings.is_loopback and not settings.allowed_hosts:
        return
    raise Refusal(
        421, f"this server does not answer to the host {host!r}; see --allowed-hosts", "host_refused"
    )


def check_origin(headers: Mapping[str, str], settings: Settings) -> None:
    """Raises Refusal when a page from elsewhere calls. Programs send no Origin."""
    origin = headers.get("origin")
    if origin is None or origin in settings.allowed_origins:
        return
    if urlsplit(origin).netloc == headers.get("host"):
        return
    raise Refusal(
        403, f"the origin {origin!r} may not call this server; see --allowed-origins", "origin_refused"
    )


def check_key(scope: Scope, headers: Mapping[str, str], settings: Settings) -> None:
    """Raises Refusal. The socket brings its key in its hello; the page itself is no secret.

    /admin is open to callers on this machine that no proxy speaks for, and to the key.
    """
    path: str = scope["path"]
    if path.startswith(ADMIN_PATH):
        local = scope["client"] and is_loopback(scope["client"][0])
        if local and not FORWARDED.intersection(headers):
            return
        if settings.api_key is None:
            raise Refusal(403, "only from this machine itself, or with the server's key", "admin_refused")
    elif settings.api_key is None or path == "/" or path.startswith(OPEN_PATHS):
        return
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secrets.compare_digest(token, settings.api_key):
        raise Refusal(401, "a valid key is wanted: Authorization: Bearer KEY", "invalid_api_key")


def check_length(headers: Mapping[str, str], most: int) -> None:
    """Raises Refusal."""
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > most:
        raise Refusal(413, f"the body is larger than {most} bytes", "body_too_large")


def _bounded(receive: Receive, left: int) -> Receive:
    """A body without a length is cut off after `left` bytes: what follows then is not valid JSON."""

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            body = message.get("body", b"")
            left -= len(body)
            if left < 0:
                return {"type": "http.request", "body": b"", "more_body": False}
        return message

    return bounded


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": str(refusal)[:120]})
        return
    body: dict[str, Any] = envelope(str(refusal), "invalid_request_error", None, refusal.code)
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
