"""A tiny SDXL pipeline on disk, and ours loaded from it in fp32 and bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from onestroke.core import GenerationRequest
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline
from tests.pipelines.tiny_models import SIZE, save_tiny_pipeline


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads gain nothing at this size, and waiting for one another on a busy machine costs minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def loaded(spec: ModelSpec, dtype: str) -> Pipeline:
    """With the batch sizes of two threads, which serve one thread as well."""
    before = torch.get_num_threads()
    pipeline = load(spec, device="cpu", dtype=dtype, threads=2)
    torch.set_num_threads(before)
    return pipeline


@pytest.fixture(scope="session", params=["float32", "bfloat16"])
def pipeline(spec: ModelSpec, request: pytest.FixtureRequest) -> Pipeline:
    return loaded(spec, request.param)


@pytest.fixture(scope="session")
def pipeline32(spec: ModelSpec) -> Pipeline:
    return loaded(spec, "float32")


@pytest.fixture(scope="session")
def ask() -> Callable[..., GenerationRequest]:
    def make(prompt: str = "a cat", seed: int = 1, **values: Any) -> GenerationRequest:
        return GenerationRequest("tiny", prompt, seed, **{"width": SIZE, "height": SIZE, **values})

    return make
