"""A tiny aMUSEd pipeline on disk, and ours loaded from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from onestroke.core import GenerationRequest
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import load
from onestroke.pipelines.muse.pipeline import MusePipeline
from tests.pipelines.tiny_models import SIZE, save_tiny_muse


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return save_tiny_muse(tmp_path_factory.mktemp("muse"))


@pytest.fixture(scope="session", params=["float32", "bfloat16"])
def pipeline(spec: ModelSpec, request: pytest.FixtureRequest) -> MusePipeline:
    return muse(spec, request.param)


@pytest.fixture(scope="session")
def pipeline32(spec: ModelSpec) -> MusePipeline:
    return muse(spec, "float32")


def muse(spec: ModelSpec, dtype: str) -> MusePipeline:
    pipeline = load(spec, device="cpu", dtype=dtype)
    assert isinstance(pipeline, MusePipeline)
    return pipeline


@pytest.fixture(scope="session")
def ask(spec: ModelSpec) -> Callable[..., GenerationRequest]:
    def make(prompt: str = "a cat", seed: int = 1, **values: Any) -> GenerationRequest:
        values = {"sampler": "amused", "steps": 4, "width": SIZE, "height": SIZE, **values}
        return GenerationRequest(spec.name, prompt, seed, **values)

    return make
