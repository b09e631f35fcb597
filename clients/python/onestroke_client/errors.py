"""Every error that this client raises, and how the server's answers map to them.

OnestrokeError
  InvalidRequest        the request must be changed; `field` names what
  Unauthorized          the server asks for a key, or for another one
  Overloaded            429, and the time allowed did not cover its Retry-After
  Unavailable           503: warming up, draining, or no replica behind the balancer
  DrawingFailed         accepted, but it could not be drawn
  ConnectionFailed      no server there, or the connection broke
  TimedOut              the time allowed is over
  Superseded            a newer prompt of the same stream was drawn instead
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class OnestrokeError(Exception):
    """Base of the tree. `code` is the server's stable name for it, `retry_after` is in seconds."""

    retryable: ClassVar[bool] = False
    """Whether the very same request may succeed a little later."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.retry_after = retry_after


class InvalidRequest(OnestrokeError):
    pass


class Unauthorized(OnestrokeError):
    pass


class Overloaded(OnestrokeError):
    retryable = True


class Unavailable(OnestrokeError):
    retryable = True


class DrawingFailed(OnestrokeError):
    pass


class ConnectionFailed(OnestrokeError):
    retryable = True


class TimedOut(OnestrokeError):
    pass


class Superseded(OnestrokeError):
    pass


_BY_CODE: dict[str, type[OnestrokeError]] = {
    "invalid_request": InvalidRequest,
    "model_not_found": InvalidRequest,
    "overloaded": Overloaded,
    "unavailable": Unavailable,
    "worker_died": DrawingFailed,  # a 503, but the request itself may be what killed the worker
}
_BY_STATUS: dict[int, type[OnestrokeError]] = {
    401: Unauthorized,
    429: Overloaded,
    502: Unavailable,
    503: Unavailable,
}


def from_message(message: Mapping[str, Any]) -> OnestrokeError:
    """The stream's `error` message, typed."""
    retry_after = message.get("retry_after_ms")
    return _BY_CODE.get(message["code"], DrawingFailed)(
        message["message"],
        code=message["code"],
        field=message.get("field"),
        retry_after=None if retry_after is None else retry_after / 1000,
    )


def from_answer(status: int, headers: Mapping[str, str], body: object) -> OnestrokeError:
    """An HTTP answer that is not a picture, typed. `body` is its JSON; a balancer's own error has none."""
    said = body.get("error") if isinstance(body, dict) else None
    error: Mapping[str, Any] = said if isinstance(said, dict) else {}
    code = error.get("code")
    kind = _BY_CODE.get(str(code)) or _BY_STATUS.get(status)
    if kind is None and status == 500 and not error:
        kind = Unavailable  # not the server's word: a proxy's, whose replica went away in mid-request
    if kind is None:
        kind = InvalidRequest if 400 <= status < 500 and status != 499 else DrawingFailed
    return kind(
        error.get("message") or f"the server answered {status}",
        code=code,
        field=error.get("param"),
        retry_after=_retry_after(headers),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the date form of Retry-After is not used here."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        if (value := headers.get(name, "")).isdigit():
            return int(value) / scale
    return None
