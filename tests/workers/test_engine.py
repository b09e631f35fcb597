"""Several engines behind one worker: each row goes to that of its model, and a failure names its model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onestroke.core import FitKey
from onestroke.errors import ModelError
from onestroke.workers.engine import Engines, WorkerConfig, load_engines
from onestroke.workers.messages import Sample
from tests.doubles import FAKE_ENGINE, SPEC, FakeEngine, request

OTHER = replace(SPEC, name="other")


class Recorder(FakeEngine):
    """Remembers the prompts that each verb was given."""

    def __init__(self, dtype: str = "torch.float32") -> None:
        self.dtype = dtype
        self.stepped: list[str] = []

    def step(self, rows):  # type: ignore[no-untyped-def]
        self.stepped += [row.request.prompt for row in rows]
        return super().step(rows)


def test_each_row_goes_to_the_engine_of_its_model() -> None:
    one, other = Recorder(), Recorder("torch.bfloat16")
    engines = Engines((SPEC, OTHER), {"embedded": one, "other": other})
    assert (engines.device, engines.dtype, engines.threads) == ("fake", "float32, bfloat16", 1)
    for model in ("embedded", "other", "other"):
        row = engines.prepare(1, request(f"of {model}", model=model))
        engines.encode([row])
        assert not engines.step([row]).failed
        ((rows, pixels),) = engines.decode([row])
        assert rows == [row]
        assert pixels[0].shape == (512, 512, 3)
    assert one.stepped == ["of embedded"]
    assert other.stepped == ["of other", "of other"]


def test_models_are_warmed_up_one_after_the_other_and_timed_apart() -> None:
    said: list[tuple[str, float]] = []
    engines = load_engines(WorkerConfig((SPEC, OTHER), engine=FAKE_ENGINE), lambda *progress: None)
    samples = engines.warm_up(lambda stage, fraction: said.append((stage, fraction)))
    assert said == [("embedded: warming up", 0.25), ("other: warming up", 0.75)]
    assert {sample.fit.model for sample in samples} == {"embedded", "other"}
    assert Sample(FitKey("other"), "step", 8, 0.026) in samples
    assert engines.notes() == ["embedded: a double", "other: a double"]


def test_one_model_alone_is_not_named_in_every_line() -> None:
    engines = load_engines(WorkerConfig((SPEC,), engine=FAKE_ENGINE), lambda *progress: None)
    assert engines.notes() == ["a double"]


def test_a_model_that_cannot_be_loaded_is_named() -> None:
    with pytest.raises(ModelError, match="broken: the weights are cut short"):
        load_engines(
            WorkerConfig((SPEC, replace(SPEC, name="broken")), engine=FAKE_ENGINE), lambda *progress: None
        )
