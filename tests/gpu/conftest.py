"""Every test of this folder runs on the CPU, eagerly, and on a CUDA device, with graphs (`make test-gpu`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from onestroke.core import GenerationRequest
from onestroke.levers import Levers
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline
from tests.pipelines.tiny_models import SIZE, save_tiny_pipeline

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return name


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def single_precision() -> Iterator[None]:
    """Where float32 is asked for, convolutions have all of it."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def make(spec: ModelSpec, device: str) -> Callable[..., Pipeline]:
    """A warm pipeline; compilation is off unless asked for, which a tiny model does not repay."""

    def made(dtype: str = "float16" if device == "cuda" else "float32", **levers: Any) -> Pipeline:
        pipeline = load(spec, device=device, dtype=dtype, levers=Levers(**{"compile": "off", **levers}))
        pipeline.warm_up()
        return pipeline

    return made


@pytest.fixture(scope="session")
def fast(make: Callable[..., Pipeline]) -> Pipeline:
    """As it is served on `device`: with graphs where there are any."""
    return make()


@pytest.fixture(scope="session")
def precise(make: Callable[..., Pipeline]) -> Pipeline:
    """As `fast`, in float32: half precision moves this model's pictures by 7 levels, and by 12 under guidance, so
    that a replay could hide behind it."""
    return make("float32")


@pytest.fixture(scope="session")
def eager(make: Callable[..., Pipeline]) -> Pipeline:
    """As `precise`, without graphs."""
    return make("float32", graphs="off")


@pytest.fixture
def ask() -> Callable[..., GenerationRequest]:
    def made(prompt: str = "a cat", seed: int = 1, **values: Any) -> GenerationRequest:
        return GenerationRequest("tiny", prompt, seed, **{"width": SIZE, "height": SIZE, **values})

    return made
