"""A Muse folder that is not whole, or whose parts do not fit, says what is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onestroke.errors import ModelError
from onestroke.levers import Levers
from onestroke.models.catalog import CATALOG
from onestroke.models.choosing import resolve, vae_of
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import load
from tests.pipelines.tiny_models import SIZE


@pytest.fixture
def copy(spec: ModelSpec, tmp_path: Path) -> ModelSpec:
    shutil.copytree(spec.source, tmp_path / "copy")
    return replace(spec, source=str(tmp_path / "copy"))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_is_a_model_sampled_as_amused_is(spec: ModelSpec) -> None:
    found = resolve(spec.source)
    assert (found.family, found.sampler, found.samplers) == ("muse", "amused", ("amused",))
    assert (found.default_steps, found.guidance_scale, found.sizes) == (12, 10.0, ((SIZE, SIZE),))
    assert found.licence.commercial is None


def test_no_other_vae_reads_its_tokens() -> None:
    assert vae_of(replace(CATALOG["amused-256"], vae="full")) is None
    for vae in ("taesd", "owner/name"):
        with pytest.raises(ModelError, match="a VAE of its own"):
            vae_of(replace(CATALOG["amused-512"], vae=vae))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantize": "fp8"}, "--quantize fp8"),
        ({"encode_kv": "on"}, "--encode-kv on"),
        ({"decoder": "tiny"}, "--decoder tiny"),
    ],
)
def test_levers_that_muse_does_not_have_are_refused(
    spec: ModelSpec, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=f"has no {words}"):
        load(spec, device="cpu", levers=Levers(**values))


@pytest.mark.parametrize("part", ["transformer", "vqvae", "text_encoder"])
def test_a_file_cut_short_or_missing_is_refused(copy: ModelSpec, part: str) -> None:
    (weights,) = (Path(copy.source) / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cut short"):
        load(copy, device="cpu")
    weights.unlink()
    with pytest.raises(ModelError, match=f"{part} has no weights"):
        resolve(copy.source)


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("scheduler/scheduler_config.json", {"mask_token_id": 3}, "mask_token_id, 3,"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
        ("vqvae/config.json", {"lookup_from_codebook": False}, "VQ model"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    copy: ModelSpec, file: str, values: dict[str, Any], words: str
) -> None:
    edit(Path(copy.source) / file, **values)
    with pytest.raises(ModelError, match=words):
        load(copy, device="cpu")
