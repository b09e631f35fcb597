"""Two decoders in one pipeline: the request chooses, and what is missing is never fetched unasked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from onestroke.core import GenerationRequest
from onestroke.errors import ModelError
from onestroke.levers import Levers
from onestroke.models import hub
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import TINY, load, read_tiny
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.tuning import described
from tests.pipelines.tiny_models import save_tiny_pipeline, tiny_vae

Ask = Callable[..., GenerationRequest]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A model with a full decoder and a tiny one beside it."""
    folder = tmp_path_factory.mktemp("both")
    spec = save_tiny_pipeline(folder, kl=True)
    tiny_vae().save_pretrained(folder / TINY)
    return spec


@pytest.fixture(scope="module")
def pipeline(both: ModelSpec) -> Pipeline:
    return load(both, device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def sub_batches(pipeline: Pipeline) -> Iterator[None]:
    for decoder in pipeline.distinct_decoders:
        decoder.batch = 4
    yield
    for decoder in pipeline.distinct_decoders:
        decoder.batch = 1


def test_rows_of_different_decoders_are_split_and_each_is_drawn_by_its_own(
    pipeline: Pipeline, ask: Ask
) -> None:
    names = ["tiny", "full", "tiny", "tiny", "full"]
    rows = [pipeline.prepare(i, ask(seed=i, decoder=name)) for i, name in enumerate(names)]
    pipeline.encode(rows)
    pipeline.step(rows)
    parts = list(pipeline.decode(rows))
    assert [[row.id for row in batch] for batch, _ in parts] == [[0, 2], [3], [1, 4]]
    for batch, pictures in parts:
        decoder = pipeline.decoders[batch[0].request.decoder]
        expected, _ = decoder([row.latents for row in batch])
        assert all(np.array_equal(*pair) for pair in zip(pictures, expected, strict=True))
    assert [decoder.is_tiny for decoder in pipeline.distinct_decoders] == [False, True]


def test_the_line_says_which_decoders_there_are(pipeline: Pipeline, both: ModelSpec, spec: ModelSpec) -> None:
    assert described(pipeline).endswith("decoder auto")
    assert described(load(spec, device="cpu", dtype="float32")).endswith("decoder tiny")
    one = load(both, device="cpu", dtype="float32", levers=Levers(decoder="full"))
    assert described(one).endswith("decoder full")
    assert one.decoders["tiny"] is one.decoders["full"]


def test_tiny_asked_for_draws_everything(both: ModelSpec) -> None:
    pipeline = load(both, device="cpu", dtype="float32", levers=Levers(decoder="tiny"))
    assert pipeline.decoder.is_tiny
    assert len(pipeline.distinct_decoders) == 1


@pytest.mark.parametrize("cached", [True, False])
def test_auto_takes_a_tiny_one_that_is_here_and_fetches_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    spec = replace(save_tiny_pipeline(tmp_path, kl=True))
    asked: list[str] = []
    monkeypatch.setattr(hub, "is_cached", lambda which: cached)

    def read(which: ModelSpec, *_: object) -> str:
        asked.append(which.vae)
        return "a decoder"

    monkeypatch.setattr("onestroke.pipelines.loading.read_vae", read)
    full = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    assert read_tiny(spec, full, "auto", torch.float32) == ("a decoder" if cached else None)
    assert asked == ["tiny"] * cached
    assert read_tiny(spec, full, "tiny", torch.float32) == "a decoder", "asked for: brought here"
    assert read_tiny(spec, full, "full", torch.float32) is None
    assert read_tiny(spec, AutoencoderTiny(), "tiny", torch.float32) is None, "it is tiny already"


def test_a_tiny_decoder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    spec = save_tiny_pipeline(tmp_path, kl=True)
    (tmp_path / TINY).mkdir()
    (tmp_path / TINY / "config.json").write_text("{}")
    with pytest.raises(ModelError):
        load(spec, device="cpu", dtype="float32")
