"""The protocol between the front and a worker process: small dataclasses over one local pipe.

The front sends Prepare, Drop, Pass, AddAdapter, RemoveAdapter and Stop; the worker answers with Progress and one
Ready, then for each Pass one PassDone, for each row that was decoded one PictureDone or RowFailed, and for each
AddAdapter one AdapterAdded. A row is known by a number that the front chooses and never uses twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from onestroke.core import FitKey, GenerationRequest
from onestroke.errors import WireError
from onestroke.models.specs import AdapterSpec

DEVICE_LOST = 70
"""Exit status of a worker whose device answers no more."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Get these rows ready (tokens, noise, sampler table) while the device does something else."""

    rows: tuple[tuple[int, GenerationRequest], ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget these rows; nobody waits for them."""

    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of rows of one batch key: encode, then step, then decode. A row may stand in all three."""

    id: int
    fit: FitKey
    encode: tuple[int, ...]
    step: tuple[int, ...]
    decode: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AddAdapter:
    """Read this LoRA; passes that are sent later may use it."""

    adapter: AdapterSpec


@dataclass(frozen=True, slots=True)
class RemoveAdapter:
    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Finish what runs and leave."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Loading and warming up: what is being done, and how far along, 0 to 1."""

    stage: str
    fraction: float


class Sample(NamedTuple):
    """One timed verb of a pass of the kind `fit`: `n` rows took `seconds`.

    For a step these are UNet rows, on `steered` of which ControlNets ran too.
    """

    fit: FitKey
    verb: str
    n: int
    seconds: float
    steered: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """A picture has been made through the real path; what the worker is, and what its passes cost.

    `notes` are for the log: which levers are on, what was compiled.
    """

    device: str
    dtype: str
    threads: int
    pid: int
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    adapters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Those that it has read, and the models that each is for."""


@dataclass(frozen=True, slots=True)
class PassDone:
    """The device is free again. Pictures may still be on their way out of the image encoder."""

    id: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class PictureDone:
    row: int
    data: bytes
    truncated: bool
    revised_prompt: str | None
    batch_size: int
    encode: float
    step: float
    decode: float
    image: float


@dataclass(frozen=True, slots=True)
class RowFailed:
    row: int
    error: WireError


@dataclass(frozen=True, slots=True)
class AdapterAdded:
    """`models` are those that it is for; `error`: why it was not added."""

    name: str
    models: tuple[str, ...]
    error: WireError | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot serve at all (the model does not load); it leaves after this."""

    error: WireError = field(default_factory=lambda: WireError("model_error", "unknown"))


Command = Prepare | Drop | Pass | AddAdapter | RemoveAdapter | Stop
Reply = Progress | Ready | PassDone | PictureDone | RowFailed | AdapterAdded | Failed
