"""What a worker process drives: the seam between the process (mechanism) and the pipelines (torch).

`WorkerConfig.engine` names the factory as "module:function", so that the front never imports it and tests can
put a double in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from onestroke.core import GenerationRequest
from onestroke.levers import AUTO, Levers
from onestroke.models.catalog import ModelSpec

TORCH_ENGINE = "onestroke.pipelines.loading:load"

Report = Callable[[str, float], None]
"""Takes the stage and the fraction done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """All that a worker process is told at its start. `threads` 0 means all cores."""

    spec: ModelSpec
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    max_batch: int = 8
    engine: str = TORCH_ENGINE
    levers: Levers = AUTO


class EngineRow(Protocol):
    """A row's state on the device; `truncated` says that its prompt was cut to the encoder's length."""

    id: int
    request: GenerationRequest
    truncated: bool
    error: Exception | None


class Stepped(Protocol):
    """What a step did: `failed` are the rows that it ruined, each with its `error`."""

    @property
    def failed(self) -> Sequence[EngineRow]: ...


class Engine(Protocol):
    """One device with one model on it.

    `prepare` may be called from any thread while a verb runs; the verbs run on one thread. A verb that raises
    leaves its rows as they were, so that it can be tried again with fewer of them; DeviceLost says that nothing
    can be tried again in this process.
    """

    @property
    def device(self) -> object: ...
    @property
    def dtype(self) -> object: ...
    @property
    def threads(self) -> int: ...

    def prepare(self, row_id: int, request: GenerationRequest) -> Any: ...
    def encode(self, rows: Sequence[Any]) -> None: ...
    def step(self, rows: Sequence[Any]) -> Stepped: ...
    def decode(self, rows: Sequence[Any]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
        """Sub-batches of (rows, uint8 arrays of height x width x 3), each as soon as it is done.

        A row that could not be decoded is left out and has its `error` set.
        """
        ...

    def warm_up(self, report: Report) -> Sequence[tuple[str, int, float]]: ...
    def notes(self) -> Sequence[str]:
        """Lines for the log, once warm: which levers are on."""
        ...


def load_engine(config: WorkerConfig, report: Report) -> Engine:
    """Import the factory and let it load the model. Raises ModelError."""
    module, _, name = config.engine.partition(":")
    factory: Callable[..., Engine] = getattr(import_module(module), name)
    return factory(
        config.spec,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads or None,
        max_batch=config.max_batch,
        levers=config.levers,
        progress=report,
    )
