"""Tiny pipelines that are drawn whole, on disk and loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onestroke.core import GenerationRequest
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.generic.pipeline import WholePipeline
from onestroke.pipelines.loading import load
from tests.pipelines.generic.tiny_pipelines import MAKERS, SIDE, save


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """By the name of the catalog's row that each is a small one of."""
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in MAKERS}


@pytest.fixture(scope="session")
def pipelines(specs: dict[str, ModelSpec]) -> dict[str, WholePipeline]:
    return {name: whole(spec) for name, spec in specs.items()}


@pytest.fixture(params=MAKERS)
def pipeline(pipelines: dict[str, WholePipeline], request: pytest.FixtureRequest) -> WholePipeline:
    return pipelines[request.param]


def whole(spec: ModelSpec) -> WholePipeline:
    pipeline = load(spec, device="cpu", dtype="float32", max_batch=4)
    assert isinstance(pipeline, WholePipeline)
    return pipeline


@pytest.fixture(scope="session")
def ask() -> Callable[..., GenerationRequest]:
    def make(spec: ModelSpec, prompt: str = "a cat", seed: int = 1, **values: Any) -> GenerationRequest:
        defaults = {
            "steps": spec.default_steps,
            "guidance_scale": spec.guidance_scale,
            "sampler": "own",
            "width": SIDE,
            "height": SIDE,
            "whole": True,
        }
        return GenerationRequest(spec.name, prompt, seed, **{**defaults, **values})

    return make
