"""What every face works with, made once by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from onestroke.metrics import Metrics
from onestroke.models.cards import card
from onestroke.models.specs import ModelSpec
from onestroke.scheduling.scheduler import Scheduler
from onestroke.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """`specs` are the models that are served; the first is the default."""

    settings: Settings
    specs: tuple[ModelSpec, ...]
    scheduler: Scheduler
    metrics: Metrics

    def model_card(self, spec: ModelSpec) -> dict[str, object]:
        """What clients are told of a model: what it is, what its licence allows, what it takes."""
        return {**card(spec), "adapters": self.scheduler.adapters.of(spec.name)}


def get_context(connection: HTTPConnection) -> Context:
    return cast(Context, connection.app.state.context)


Served = Annotated[Context, Depends(get_context)]
