"""What a worker process drives: the seam between the process (mechanism) and the pipelines (torch).

`WorkerConfig.engine` names the factory as "module:function", so that the front never imports it and tests can
put a double in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from onestroke.core import AdapterUse, GenerationRequest
from onestroke.errors import InvalidRequest, ModelError
from onestroke.levers import AUTO, Levers
from onestroke.models.specs import AdapterSpec, ModelSpec
from onestroke.workers.messages import Sample

TORCH_ENGINE = "onestroke.pipelines.loading:load_all"

Report = Callable[[str, float], None]
"""Takes the stage and the fraction done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """All that a worker process is told at its start. `threads` 0 means all cores."""

    specs: tuple[ModelSpec, ...]
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    max_batch: int = 8
    engine: str = TORCH_ENGINE
    levers: Levers = AUTO
    adapters: tuple[AdapterSpec, ...] = ()


class EngineRow(Protocol):
    """A row's state on the device.

    `truncated` says that its prompt was cut to the encoder's length, `revised_prompt` how it is read, unless it is
    read as it was given.
    """

    id: int
    request: GenerationRequest
    truncated: bool
    revised_prompt: str | None
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

    def warm_up(self, report: Report) -> Sequence[tuple[str, int, float]]:
        """Run every verb at the model's defaults; returns (verb, n, seconds) of each run, as in a Sample."""
        ...

    def notes(self) -> Sequence[str]:
        """Lines for the log, once warm: which levers are on."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """An engine whose rows may name adapters. `add_adapter` and `remove_adapter` are for any thread."""

    def add_adapter(self, adapter: AdapterSpec) -> None:
        """Raises ModelError."""
        ...

    def remove_adapter(self, name: str) -> None: ...
    def use_adapters(self, adapters: Sequence[AdapterUse]) -> bool:
        """What the rows of the next verbs want; says whether that took a switch."""
        ...


class Engines:
    """One device with several models on it: a verb goes to the engine of its rows, which are all of one model."""

    def __init__(self, specs: Sequence[ModelSpec], engines: Mapping[str, Engine]) -> None:
        self._fits = {spec.name: spec.fit for spec in specs}
        self._engines = engines
        self.adapters: dict[str, tuple[str, ...]] = {}
        """Those that were loaded at the start, and the models that each is for."""
        self._all = list(engines.values())

    @property
    def device(self) -> str:
        return str(self._all[0].device)

    @property
    def dtype(self) -> str:
        return ", ".join(dict.fromkeys(str(each.dtype).removeprefix("torch.") for each in self._all))

    @property
    def threads(self) -> int:
        return self._all[0].threads

    def prepare(self, row_id: int, request: GenerationRequest) -> EngineRow:
        engine = self._engines[request.model]
        if request.adapters and not isinstance(engine, Adaptable):
            raise InvalidRequest(f"{request.model} takes no adapters", "adapters")
        row: EngineRow = engine.prepare(row_id, request)
        return row

    def switch(self, rows: Sequence[EngineRow]) -> bool:
        """Merge the adapters that `rows` share; says whether there was anything to do."""
        engine = self._of(rows)
        return isinstance(engine, Adaptable) and engine.use_adapters(rows[0].request.adapters)

    def encode(self, rows: Sequence[EngineRow]) -> None:
        self._of(rows).encode(rows)

    def step(self, rows: Sequence[EngineRow]) -> Stepped:
        return self._of(rows).step(rows)

    def decode(self, rows: Sequence[EngineRow]) -> Iterator[tuple[Sequence[EngineRow], Sequence[Any]]]:
        return self._of(rows).decode(rows)

    def _of(self, rows: Sequence[EngineRow]) -> Engine:
        return self._engines[rows[0].request.model]

    def warm_up(self, report: Report) -> list[Sample]:
        """One model after the other. Raises ModelError that names the one that draws nothing."""
        samples = []
        for done, (name, engine) in enumerate(self._engines.items()):

            def part(stage: str, fraction: float, done: int = done, name: str = name) -> None:
                report(self._named(name, stage), (done + fraction) / len(self._all))

            samples += [Sample(self._fits[name], *timed) for timed in engine.warm_up(part)]
        return samples

    def add_adapter(self, adapter: AdapterSpec) -> tuple[str, ...]:
        """The models that it is for. Raises ModelError where there is none."""
        suits, why = [], ModelError("adapters are for SDXL and SD models, and none is served")
        for name, engine in self._engines.items():
            if isinstance(engine, Adaptable):
                try:
                    engine.add_adapter(adapter)
                    suits.append(name)
                except ModelError as error:
                    why = error
        if not suits:
            raise why
        return tuple(suits)

    def remove_adapter(self, name: str) -> None:
        for engine in self._all:
            if isinstance(engine, Adaptable):
                engine.remove_adapter(name)

    def notes(self) -> list[str]:
        return [self._named(name, note) for name, engine in self._engines.items() for note in engine.notes()]

    def _named(self, name: str, line: str) -> str:
        """With the name of its model, where there are several."""
        return f"{name}: {line}" if len(self._all) > 1 else line


def load_engines(config: WorkerConfig, report: Report) -> Engines:
    """Import the factory and let it load the models. Raises ModelError that names the one that cannot be."""
    module, _, name = config.engine.partition(":")
    factory: Callable[..., Mapping[str, Engine]] = getattr(import_module(module), name)
    engines = Engines(
        config.specs,
        factory(
            config.specs,
            device=config.device,
            dtype=config.dtype,
            threads=config.threads or None,
            max_batch=config.max_batch,
            levers=config.levers,
            progress=report,
        ),
    )
    for adapter in config.adapters:
        report(f"loading the adapter {adapter.name}", 1.0)
        engines.adapters[adapter.name] = engines.add_adapter(adapter)
    return engines
