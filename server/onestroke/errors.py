"""Every error that Onestroke raises on purpose.

    OnestrokeError
      InvalidRequest        the caller's fault; names the field
        UnknownModel        no such model is served
      Overloaded            refused at the door; try again after `retry_after` seconds
      Unavailable           no picture can be made now (warming up, restarting, draining)
      DeadlineExceeded      accepted, but not finished in time
      GenerationFailed      this row failed (a non-finite picture, out of memory, a poisonous request)
      Cancelled             nobody waits for the answer any more
      ModelError            the model cannot be loaded, and why
      DeviceLost            the device answers no more in this process: it must end and start again
      WorkerDied            the process that owns the device went away in mid-pass

`code` is the stable, machine-readable name; faces map it to their own wire format in `api/errors.py`.
Errors cross the process boundary as (code, message, field), see `to_wire` and `from_wire`.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class OnestrokeError(Exception):
    """Base of the tree. `retry_after` is in seconds, None where trying again does not help."""

    code: ClassVar[str] = "internal_error"
    retry_after: float | None = None

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else self.code


class InvalidRequest(OnestrokeError):
    """The request cannot be served as it stands; `field` is the one to change."""

    code = "invalid_request"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownModel(InvalidRequest):
    code = "model_not_found"


class Overloaded(OnestrokeError):
    code = "overloaded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(OnestrokeError):
    code = "unavailable"

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(OnestrokeError):
    code = "deadline_exceeded"


class GenerationFailed(OnestrokeError):
    code = "generation_failed"


class Cancelled(OnestrokeError):
    code = "cancelled"


class ModelError(OnestrokeError):
    code = "model_error"


class DeviceLost(OnestrokeError):
    code = "device_lost"


class WorkerDied(OnestrokeError):
    code = "worker_died"


class WireError(NamedTuple):
    """An error as it crosses the process boundary."""

    code: str
    message: str
    field: str | None = None


_ON_THE_WIRE: dict[str, type[OnestrokeError]] = {
    kind.code: kind for kind in (InvalidRequest, GenerationFailed, ModelError, WorkerDied)
}


def to_wire(error: BaseException) -> WireError:
    """What a worker says of `error`; anything unforeseen is a GenerationFailed that names its type."""
    if isinstance(error, OnestrokeError):
        return WireError(error.code, error.message, getattr(error, "field", None))
    return WireError(GenerationFailed.code, f"{type(error).__name__}: {error}")


def from_wire(wire: WireError) -> OnestrokeError:
    kind = _ON_THE_WIRE.get(wire.code, GenerationFailed)
    if issubclass(kind, InvalidRequest):
        return kind(wire.message, wire.field)
    return kind(wire.message)
