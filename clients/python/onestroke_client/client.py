"""`Client` and `AsyncClient`: one picture per call, tried again where that can help."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from types import TracebackType
from typing import Any, Unpack

import httpx

from onestroke_client.errors import ConnectionFailed, OnestrokeError, TimedOut
from onestroke_client.picture import Drawing, Format, Picture, from_response, spelled
from onestroke_client.stream import Stream

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT = 10.0
FIRST_PAUSE = 0.25
"""Seconds before a second attempt when the server does not say; doubled each time."""


class Patience:
    """How long one call goes on: `timeout` seconds in all, `retries` attempts after the first."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._until = time.monotonic() + timeout
        self._retries = retries
        self._pause = FIRST_PAUSE

    @property
    def left(self) -> float:
        return max(0.001, self._until - time.monotonic())

    def timeouts(self) -> httpx.Timeout:
        return httpx.Timeout(self.left, connect=min(CONNECT_TIMEOUT, self.left))

    def pause(self, error: OnestrokeError) -> float:
        """Seconds until the next attempt: the server's Retry-After, else our own.

        Raises `error` when there is to be none.
        """
        wait = self._pause * random.uniform(0.5, 1.5) if error.retry_after is None else error.retry_after
        if not error.retryable or self._retries == 0 or wait >= self.left:
            raise error
        self._retries -= 1
        self._pause *= 2
        return wait


class _Base:
    """What both clients say to the server, and how."""

    def __init__(
        self, url: str = DEFAULT_URL, *, api_key: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        """`timeout` is in seconds and covers a whole call, its retries and their pauses included.

        A call is tried again (drawing twice does no harm) when the server is overloaded or unavailable or the
        connection breaks, at most `retries` times, and never past `timeout`.
        """
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._timeout = timeout
        self._retries = retries
        self._connect()

    def _connect(self) -> None:
        raise NotImplementedError

    def _patience(self, timeout: float | None) -> Patience:
        return Patience(self._timeout if timeout is None else timeout, self._retries)

    def _http(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        return {"base_url": self._url, "headers": headers}


class Client(_Base):
    """The server at `url`, for ordinary code. Close it, or use it as a context manager; threads may share it."""

    def _connect(self) -> None:
        self._client = httpx.Client(**self._http())

    def generate(
        self,
        prompt: str,
        *,
        format: Format = "jpeg",
        timeout: float | None = None,
        **drawing: Unpack[Drawing],
    ) -> Picture:
        """One picture. Raises OnestrokeError."""
        patience, body = self._patience(timeout), {"prompt": prompt, "format": format, **_inline(drawing)}
        while True:
            try:
                response = self._client.post("/v1/generate", json=body, timeout=patience.timeouts())
                return from_response(prompt, response)
            except (OnestrokeError, httpx.TransportError) as error:
                pause = patience.pause(_typed(error))
            time.sleep(pause)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Base):
    """The same for asyncio, and the typing stream."""

    def _connect(self) -> None:
        self._client = httpx.AsyncClient(**self._http())

    async def generate(
        self,
        prompt: str,
        *,
        format: Format = "jpeg",
        timeout: float | None = None,
        **drawing: Unpack[Drawing],
    ) -> Picture:
        """One picture. Raises OnestrokeError."""
        patience, body = self._patience(timeout), {"prompt": prompt, "format": format, **_inline(drawing)}
        while True:
            try:
                response = await self._client.post("/v1/generate", json=body, timeout=patience.timeouts())
                return from_response(prompt, response)
            except (OnestrokeError, httpx.TransportError) as error:
                pause = patience.pause(_typed(error))
            await asyncio.sleep(pause)

    def stream(self, *, format: Format = "jpeg", **drawing: Unpack[Drawing]) -> Stream:
        """A typing session, to be entered with `async with`; `drawing` holds for each of its prompts."""
        return Stream(self._url, self._api_key, self._timeout, format, drawing)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _inline(drawing: Drawing) -> dict[str, Any]:
    return spelled(drawing, lambda data: base64.b64encode(data).decode())


def _typed(error: OnestrokeError | httpx.TransportError) -> OnestrokeError:
    match error:
        case OnestrokeError():
            return error
        case httpx.ConnectTimeout() | httpx.ConnectError():
            typed: OnestrokeError = ConnectionFailed(f"no server answers: {error}")
        case httpx.TimeoutException():
            typed = TimedOut("no answer in the time allowed")
        case _:
            typed = ConnectionFailed(f"the connection broke: {error}")
    typed.__cause__ = error
    return typed
