"""What is drawn whole is told by its class; what cannot be says why, and no code comes from a checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onestroke.errors import ModelError
from onestroke.levers import Levers
from onestroke.models import hub
from onestroke.models.catalog import CATALOG
from onestroke.models.choosing import choose, resolve
from onestroke.models.folders import files_of, names_in
from onestroke.models.specs import ModelSpec
from onestroke.pipelines import memory
from onestroke.pipelines.generic.calls import pipeline_class
from onestroke.pipelines.generic.pipeline import WholePipeline
from onestroke.pipelines.loading import load
from onestroke.pipelines.parts import memory_needed
from tests.pipelines.tiny_models import save_tiny_muse


@pytest.fixture
def copy(specs: dict[str, ModelSpec], tmp_path: Path) -> ModelSpec:
    folder = tmp_path / "copy"
    shutil.copytree(specs["sana-sprint"].source, folder)
    return replace(specs["sana-sprint"], source=str(folder))


def edit(spec: ModelSpec, **values: object) -> None:
    path = Path(spec.source) / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("row", [row for row in CATALOG.values() if row.whole], ids=lambda row: row.name)
def test_every_row_s_pipeline_is_there_and_takes_what_the_row_gives(row: ModelSpec) -> None:
    kind = pipeline_class(row.pipeline)
    assert kind.__name__ == row.pipeline
    assert row.sampler == "own"


def test_a_folder_is_sampled_like_the_row_of_its_class(specs: dict[str, ModelSpec]) -> None:
    spec = resolve(specs["sana-sprint"].source)
    assert (spec.family, spec.pipeline, spec.whole) == ("diffusers", "SanaSprintPipeline", True)
    assert (spec.default_steps, spec.guidance_scale, spec.sampler) == (2, 4.5, "own")
    assert spec.licence.commercial is None
    assert "SanaSprintPipeline" in spec.note
    flux = resolve(specs["flux1-schnell"].source)
    assert dict(flux.call) == {"max_sequence_length": 256}


def test_a_class_without_a_row_has_plain_defaults_and_another_row_s_recipe_when_asked(
    copy: ModelSpec,
) -> None:
    edit(copy, _class_name="SanaPipeline")
    spec = resolve(copy.source)
    assert (spec.pipeline, spec.default_steps, spec.guidance_scale) == ("SanaPipeline", 30, 5.0)
    assert resolve(copy.source, recipe="sana-sprint").default_steps == 2
    with pytest.raises(ModelError, match="recipe sd15 is for sd models"):
        resolve(copy.source, recipe="sd15")


@pytest.mark.parametrize(
    "name", ["StableDiffusionXLInpaintPipeline", "FluxControlNetPipeline", "WanVideoPipeline", 7]
)
def test_pipelines_that_want_more_than_a_text_are_named(copy: ModelSpec, name: object) -> None:
    edit(copy, _class_name=name)
    with pytest.raises(ModelError, match=f"holds a {name}; what is served"):
        resolve(copy.source)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("NoSuchPipeline", "has no pipeline NoSuchPipeline"),
        ("AutoencoderKL", "has no pipeline AutoencoderKL"),
        ("StableUnCLIPImg2ImgPipeline", "StableUnCLIPImg2ImgPipeline"),
        ("DDPMPipeline", "DDPMPipeline takes no prompt and no height and no width"),
        ("ShapEPipeline", "ShapEPipeline takes no height and no width"),
    ],
)
def test_a_class_that_cannot_be_called_so_is_refused_with_what_it_lacks(
    copy: ModelSpec, name: str, why: str
) -> None:
    edit(copy, _class_name=name)
    with pytest.raises(ModelError, match=why):
        load(copy, device="cpu")


def test_a_call_that_the_class_does_not_take_is_refused(copy: ModelSpec) -> None:
    with pytest.raises(ModelError, match="SanaSprintPipeline takes no true_cfg_scale"):
        load(replace(copy, call=(("true_cfg_scale", 2.0),)), device="cpu")


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (["custom_code", "Transformer"], "only parts of diffusers and transformers are read, and no code"),
        (["diffusers", "NoSuchModel"], "which this diffusers"),
        (["transformers", "AutoModel"], "no part that is read"),
        (["diffusers", "DiffusionPipeline"], "no part that is read"),
    ],
)
def test_parts_of_other_libraries_and_other_things_are_refused(
    copy: ModelSpec, part: list[str], why: str
) -> None:
    edit(copy, transformer=part)
    with pytest.raises(ModelError, match=why):
        load(copy, device="cpu")


def test_a_pickled_part_is_refused(copy: ModelSpec) -> None:
    weights = Path(copy.source) / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    for attempt in (resolve, lambda source: load(replace(copy, source=source), device="cpu")):
        with pytest.raises(ModelError, match=r"\.bin is a pickled checkpoint"):
            attempt(copy.source)


def test_a_part_whose_weights_are_cut_short_is_refused(copy: ModelSpec) -> None:
    weights = Path(copy.source) / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cut short"):
        load(copy, device="cpu")


def test_levers_of_the_unet_path_and_another_vae_are_refused(copy: ModelSpec) -> None:
    with pytest.raises(ModelError, match="has no --compile regional"):
        load(copy, device="cpu", levers=Levers(compile="regional"))
    with pytest.raises(ModelError, match="has a VAE of its own"):
        choose(copy.source, vae="taesd")


def test_its_memory_is_that_of_all_its_parts(copy: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load(copy, device="cpu", dtype="float32")
    assert isinstance(pipeline, WholePipeline)
    parts = [part for part in pipeline._pipeline.components.values() if isinstance(part, torch.nn.Module)]
    held = sum(weight.nbytes for part in parts for weight in part.parameters())
    assert memory_needed(copy, torch.float32) == pytest.approx(memory.WORKING_SPACE * held, rel=0.05)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(ModelError, match=r"needs .* GB of memory"):
        load(copy, device="cpu")


def test_what_is_fetched_is_every_part_and_not_what_lies_beside_them(specs: dict[str, ModelSpec]) -> None:
    spec = specs["flux1-schnell"]
    beside = {
        "flux1-schnell.safetensors",
        "README.md",
        "transformer/diffusion_pytorch_model.bf16.safetensors",
    }
    wanted = set(files_of(spec, names_in(Path(spec.source)) | beside))
    assert wanted == names_in(Path(spec.source))


def test_a_hub_id_is_told_by_its_index_and_what_its_family_says_beside(
    specs: dict[str, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    folder = Path(specs["z-image-turbo"].source)

    def snapshot(source: str, revision: str | None, name: str) -> Path | None:
        asked.append(name)
        return folder

    monkeypatch.setattr(hub, "_snapshot", snapshot)
    spec = resolve("owner/z-image")
    assert (spec.source, spec.pipeline, spec.default_steps) == ("owner/z-image", "ZImagePipeline", 9)
    assert set(asked) == {"model_index.json"}
    folder = Path(save_tiny_muse(tmp_path).source)
    assert resolve("owner/muse").family == "muse"
    assert {"transformer/config.json", "vqvae/config.json"} <= set(asked)
