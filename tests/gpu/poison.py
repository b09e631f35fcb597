"""The real engine with a word that poisons: a failed assertion on the card, after which nothing works there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from onestroke.models.specs import ModelSpec
from onestroke.pipelines.device import device_errors
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline

ENGINE = "tests.gpu.poison:load_all_poisonable"


def load_all_poisonable(specs: Sequence[ModelSpec], **options: Any) -> dict[str, Pipeline]:
    return {spec.name: load_poisonable(spec, **options) for spec in specs}


def load_poisonable(spec: ModelSpec, **options: Any) -> Pipeline:
    """`loading.load`'s pipeline; "poison" in a prompt spoils the device, "oom" asks it for too much."""
    pipeline = load(spec, **options)
    step = pipeline.step

    def poisonable(rows: Sequence[Any]) -> Any:
        prompts = " ".join(row.request.prompt for row in rows)
        with device_errors(pipeline.device):
            if "poison" in prompts:
                spoil(pipeline.device)
            if "oom" in prompts:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return step(rows)

    pipeline.step = poisonable  # type: ignore[method-assign]
    return pipeline


def spoil(device: torch.device) -> None:
    """A real assertion on CUDA; elsewhere the error that it raises."""
    if device.type == "cuda":
        torch._assert_async(torch.zeros(1, device=device))
        torch.cuda.synchronize(device)
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")
