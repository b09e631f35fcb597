from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from onestroke.errors import ModelError
from onestroke.models import catalog
from onestroke.models.catalog import CATALOG, SAMPLERS, choose, resolve


def folder(path: Path, kind: str = "StableDiffusionXLPipeline") -> Path:
    (path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return path


def test_every_row_can_serve_its_own_defaults() -> None:
    for name, spec in CATALOG.items():
        assert spec.name == name
        assert 1 <= spec.default_steps <= spec.max_steps
        assert spec.sampler in SAMPLERS
        assert spec.sizes


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    spec = resolve(str(folder(tmp_path)))
    assert spec.name == tmp_path.name
    assert spec.licence.commercial is None


def test_what_cannot_be_served_says_what_can(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="embedded"):
        resolve("nonesuch")
    with pytest.raises(ModelError, match=r"model_index\.json"):
        resolve(str(tmp_path))
    with pytest.raises(ModelError, match="FluxPipeline"):
        resolve(str(folder(tmp_path, "FluxPipeline")))
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.touch()
    with pytest.raises(ModelError, match="single-file"):
        resolve(str(checkpoint))


@pytest.mark.parametrize(
    ("card", "cached", "name", "why"),
    [
        (False, True, "embedded", "no NVIDIA card"),
        (True, False, "embedded", "downloads 6.9 GB"),
        (True, True, "sdxl-turbo", "cached"),
    ],
)
def test_auto_never_downloads_and_says_why(
    monkeypatch: pytest.MonkeyPatch, card: bool, cached: bool, name: str, why: str
) -> None:
    monkeypatch.setattr(catalog, "has_nvidia_card", lambda: card)
    monkeypatch.setattr(catalog, "is_cached", lambda spec: cached)
    choice = choose("auto")
    assert choice.spec.name == name
    assert why in choice.why


def test_a_seed_chooses_its_crop_always_the_same_and_all_in_turn() -> None:
    spec = replace(CATALOG["embedded"], crops=(-16, 0, 16))
    chosen = [spec.crop(seed) for seed in range(200)]
    assert chosen == [spec.crop(seed) for seed in range(200)]
    assert set(chosen) == set(itertools.product(spec.crops, repeat=2))
    assert replace(spec, crops=(0,)).crop(2**53 - 1) == (0, 0)
