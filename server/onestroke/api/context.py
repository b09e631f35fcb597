"""What every face works with, made once by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from onestroke.core import MAX_SEED
from onestroke.metrics import Metrics
from onestroke.models.catalog import ModelSpec
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
        return {
            "name": spec.name,
            "description": spec.description,
            "licence": {
                "name": spec.licence.name,
                "terms": spec.licence.terms,
                "commercial": spec.licence.commercial,
                "url": spec.licence.url,
            },
            "family": spec.family,
            "sampler": spec.sampler,
            "default_steps": spec.default_steps,
            "max_steps": spec.max_steps,
            "only_steps": list(spec.only_steps),
            "guidance_scale": spec.guidance_scale,
            "sizes": [list(size) for size in spec.sizes],
            "max_seed": MAX_SEED - 1,
            "reads_pictures": spec.reads_pictures,
            "controls": [each.name for each in spec.controls],
            "adapters": self.scheduler.adapters_of(spec.name),
        }


def get_context(connection: HTTPConnection) -> Context:
    return cast(Context, connection.app.state.context)


Served = Annotated[Context, Depends(get_context)]
