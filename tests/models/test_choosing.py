"""A name, an id, a folder or a file becomes a row; what is none of these is told what would do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onestroke.errors import ModelError
from onestroke.models import choosing, hub
from onestroke.models.catalog import CATALOG, SDXL_SIZES, VAES
from onestroke.models.choosing import adapters_from, choose, choose_all, file_of, resolve, vae_of
from onestroke.models.specs import FileSpec, ModelSpec
from onestroke.settings import Settings

CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "StableDiffusionXLPipeline"},
    "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler"},
    "unet/config.json": {"in_channels": 4, "out_channels": 4, "sample_size": 128},
    "vae/config.json": {"_class_name": "AutoencoderKL", "block_out_channels": [1, 1, 1, 1]},
    "text_encoder/config.json": {},
    "text_encoder_2/config.json": {},
}
WEIGHTS = {
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    for name in (*CONFIGS, *WEIGHTS):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(CONFIGS.get(name, "")))
    return path


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_is_a_model_sampled_as_its_scheduler_says(folder: Path) -> None:
    spec = resolve(str(folder))
    assert (spec.name, spec.family, spec.variant) == ("model", "sdxl", None)
    assert spec.licence.commercial is None
    assert (spec.sampler, spec.default_steps, spec.guidance_scale) == ("euler", 30, 5.0)
    assert spec.sizes == SDXL_SIZES


@pytest.mark.parametrize(
    ("scheduler", "sampler", "steps", "guidance"),
    [
        (
            {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
            "euler_ancestral",
            1,
            0.0,
        ),
        ({"_class_name": "LCMScheduler"}, "lcm", 4, 0.0),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "dpmpp_2m", 30, 5.0),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "ddim", 30, 5.0),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            "ddim",
            30,
            5.0,
        ),
        ({"_class_name": "UniPCMultistepScheduler"}, "ddim", 30, 5.0),
    ],
)
def test_the_scheduler_is_the_recipe(
    folder: Path, scheduler: dict[str, Any], sampler: str, steps: int, guidance: float
) -> None:
    edit(folder / "scheduler/scheduler_config.json", **scheduler)
    spec = resolve(str(folder))
    assert (spec.sampler, spec.default_steps, spec.guidance_scale) == (sampler, steps, guidance)
    assert ("DDIM is served in its place" in spec.note) == (sampler == "ddim")


def test_a_unet_that_takes_guidance_as_an_input_is_guided_by_default(folder: Path) -> None:
    edit(folder / "scheduler/scheduler_config.json", _class_name="LCMScheduler")
    edit(folder / "unet/config.json", time_cond_proj_dim=256)
    spec = resolve(str(folder))
    assert (spec.embeds_guidance, spec.guidance_scale, spec.default_steps) == (True, 8.5, 4)


def test_another_rows_recipe_can_be_asked_for(folder: Path) -> None:
    spec = resolve(str(folder), recipe="sdxl-turbo")
    assert (spec.sampler, spec.default_steps, spec.sizes) == ("euler_ancestral", 1, ((512, 512),))
    assert dict(spec.scheduler)["timestep_spacing"] == "trailing"
    with pytest.raises(ModelError, match="no recipe 'nonesuch'"):
        resolve(str(folder), recipe="nonesuch")
    with pytest.raises(ModelError, match="recipe sd15 is for sd models"):
        resolve(str(folder), recipe="sd15")


def test_the_variant_that_a_folder_has_is_taken(folder: Path) -> None:
    for name in WEIGHTS:
        (folder / name).rename((folder / name).with_suffix(".fp16.safetensors"))
    assert resolve(str(folder)).variant == "fp16"


def test_what_cannot_be_served_says_what_can(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="embedded"):
        resolve("nonesuch")
    with pytest.raises(ModelError, match=r"model_index\.json"):
        resolve(str(tmp_path))
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(ModelError, match=r"such as .*a\.safetensors"):
        resolve(str(tmp_path))
    edit(folder / "model_index.json", _class_name="FluxInpaintPipeline")
    with pytest.raises(ModelError, match=r"FluxInpaintPipeline.*StableDiffusionXLPipeline"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("values", "words"),
    [({"in_channels": 9}, "takes 9 channels"), ({"in_channels": 8}, "takes 8 channels")],
)
def test_a_unet_that_wants_more_than_text_and_noise_is_refused(
    folder: Path, values: dict[str, int], words: str
) -> None:
    edit(folder / "unet/config.json", **values)
    with pytest.raises(ModelError, match=words):
        resolve(str(folder))


def test_a_folder_that_is_not_whole_names_what_is_missing(folder: Path) -> None:
    (folder / "unet/config.json").write_text("{")
    with pytest.raises(ModelError, match=r"unet/config\.json cannot be read"):
        resolve(str(folder))
    edit_config = json.dumps(CONFIGS["unet/config.json"])
    (folder / "unet/config.json").write_text(edit_config)
    (folder / "text_encoder_2/model.safetensors").unlink()
    with pytest.raises(ModelError, match="text_encoder_2 has no weights"):
        resolve(str(folder))
    (folder / "text_encoder_2/pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickled checkpoint"):
        resolve(str(folder))


def test_shards_are_all_there_or_named(folder: Path) -> None:
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").rename(
        unet / "diffusion_pytorch_model-00001-of-00002.safetensors"
    )
    (unet / "diffusion_pytorch_model.safetensors.index.json").touch()
    with pytest.raises(ModelError, match="only 1 of 2 shards"):
        resolve(str(folder))
    (unet / "diffusion_pytorch_model-00002-of-00002.safetensors").touch()
    assert resolve(str(folder))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.pth"])
def test_a_pickled_file_is_refused_unread(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"pickled checkpoint.*safetensors"):
        resolve(str(tmp_path / name))


def test_a_revision_goes_with_what_has_revisions(folder: Path) -> None:
    assert resolve("sdxl-turbo").revision == CATALOG["sdxl-turbo"].revision
    assert resolve("sdxl-turbo@v2").revision == "v2"
    assert resolve("stabilityai/sdxl-turbo", "v3").revision == "v3"
    for name in (str(folder), "embedded"):
        with pytest.raises(ModelError, match="revision"):
            resolve(name, "v2")


def test_a_vae_is_a_word_a_name_an_id_or_a_path(tmp_path: Path) -> None:
    turbo, sd15 = CATALOG["sdxl-turbo"], CATALOG["sd15"]
    assert vae_of(turbo) is None
    assert vae_of(replace(turbo, vae="full")) == VAES["sdxl-vae-fp16-fix"]
    assert vae_of(replace(sd15, vae="full")) is None
    assert vae_of(replace(turbo, vae="tiny")) == VAES["taesdxl"]
    assert vae_of(replace(CATALOG["embedded"], vae="tiny")) is None
    assert vae_of(replace(sd15, vae="madebyollin/taesd")) == VAES["taesd"]
    assert vae_of(replace(turbo, vae=str(tmp_path))) == tmp_path
    other = vae_of(replace(turbo, vae="me/mine@v1"))
    assert isinstance(other, choosing.VaeSpec)
    assert (other.source, other.revision) == ("me/mine", "v1")


def test_a_file_beside_a_model_is_a_path_or_a_file_of_a_hub_id(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert file_of(str(path)) == FileSpec(str(path))
    assert file_of("a/b@c:d/e.safetensors") == FileSpec("a/b", "d/e.safetensors", "c")
    assert file_of("a/b", "lora.safetensors") == FileSpec("a/b", "lora.safetensors")
    assert choose(str(folder), unet="a/b:c.safetensors").spec.unet == FileSpec("a/b", "c.safetensors")
    for name, words in (("a/b:c.bin", "pickled"), ("nowhere.safetensors", "neither")):
        with pytest.raises(ModelError, match=words):
            file_of(name)


def test_adapters_are_named_once_each(tmp_path: Path) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"")

    def adapters(*asked: str) -> list[str]:
        return [f"{each.name} {each.file.name}" for each in adapters_from(Settings(adapter=asked))]

    file = str(tmp_path / "ink.safetensors")
    assert adapters(f"ink={file}", "pixel=a/b") == [
        f"ink {file}",
        "pixel a/b:pytorch_lora_weights.safetensors",
    ]
    for wrong, words in ((["ink"], "NAME=SOURCE"), (["a=a/b", "a=c/d"], "once"), (["a b=a/b"], "letters"),
                         (["a=nothing.safetensors"], "neither"), (["a=a/b:c.ckpt"], "pickled")):  # fmt: skip
        with pytest.raises(ModelError, match=words):
            adapters(*wrong)


def test_a_recipe_brings_the_steps_it_is_for(folder: Path) -> None:
    spec = resolve(str(folder), recipe="dmd2-1step")
    assert (spec.sampler, spec.only_steps, spec.timesteps) == ("lcm", (1,), ((1, (399,)),))


@pytest.mark.parametrize(
    ("vae", "words"),
    [("nonesuch", "full, tiny"), ("taesd", "reads the latents of sd"), ("me/vae.pt", "pickled")],
)
def test_a_vae_that_cannot_be_says_why(vae: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        choose("sdxl-turbo", vae=vae)


@pytest.mark.parametrize(
    ("card", "cached", "name", "why"),
    [
        (False, True, "embedded", "no NVIDIA card"),
        (True, False, "embedded", "downloads 6.9 GB (Stability AI non-commercial"),
        (True, True, "sdxl-turbo", "cached"),
    ],
)
def test_auto_never_downloads_and_says_why(
    monkeypatch: pytest.MonkeyPatch, card: bool, cached: bool, name: str, why: str
) -> None:
    monkeypatch.setattr(choosing, "has_nvidia_card", lambda: card)
    monkeypatch.setattr(hub, "is_cached", lambda spec: cached)
    monkeypatch.setattr(hub, "fetch", None)
    choice = choose("auto")
    assert choice.spec.name == name
    assert why in choice.why


def test_several_models_are_served_and_the_first_is_the_default(folder: Path) -> None:
    choices = choose_all(Settings(model=("embedded", str(folder), "sd15")))
    assert [choice.spec.name for choice in choices] == ["embedded", "model", "sd15"]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model": ("sd15", "sd15")}, "two of the models are called sd15"),
        ({"model": ("sd15", "sd-turbo"), "revision": "main"}, "ID@REVISION"),
        ({"model": ("sd15", "sd-turbo"), "recipe": "sd15"}, "--recipe is for one model"),
        ({"model": ("sd15", "sdxl-turbo"), "vae": "taesd"}, "sdxl-turbo"),
        ({"model": ("sd15", "nonesuch")}, "nonesuch"),
    ],
)
def test_several_models_that_cannot_be_served_together_are_refused(
    settings: dict[str, Any], word: str
) -> None:
    with pytest.raises(ModelError, match=word):
        choose_all(Settings(**settings))


def only(model: str, *controls: str) -> ModelSpec:
    (choice,) = choose_all(Settings(model=(model,), controlnet=controls))
    return choice.spec


@pytest.mark.parametrize("model", ["sdxl-base", "sd15"])
def test_controlnets_by_name_are_those_of_the_models_family(model: str) -> None:
    spec = only(model, "canny", "depth", "scribble")
    assert [(each.name, each.family) for each in spec.controls] == [
        (name, spec.family) for name in ("canny", "depth", "scribble")
    ]
    assert all(each.weights in spec.extras for each in spec.controls)


def test_a_controlnet_from_elsewhere_is_named(tmp_path: Path) -> None:
    (control,) = only("sd15", f"mine={tmp_path}").controls
    assert (control.name, control.weights.source) == ("mine", str(tmp_path.resolve()))
    (control,) = only("sd15", "mine=someone/a-net").controls
    assert (control.weights.source, control.weights.variant) == ("someone/a-net", "fp16")


@pytest.mark.parametrize(
    ("model", "asked", "reason"),
    [
        ("sd15", "pose", "give canny, depth, scribble"),
        ("sd15", "a b=someone/net", "letters, digits"),
        ("sd15", "mine=/not/there", "neither a path"),
        ("sd15", "mine=net.ckpt", "neither a path"),
        ("amused-256", "canny", "takes no ControlNet"),
    ],
)
def test_what_is_no_controlnet_says_what_would_be(model: str, asked: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        only(model, asked)


def test_controlnets_go_to_the_models_that_take_them() -> None:
    models = ("amused-256", "sd15", "sdxl-base")
    muse, sd, sdxl = choose_all(Settings(model=models, controlnet=("canny",)))
    assert not muse.spec.controls
    assert [each.spec.controls[0].family for each in (sd, sdxl)] == ["sd", "sdxl"]
    with pytest.raises(ModelError, match="one family"):
        choose_all(Settings(model=models, controlnet=("mine=someone/a-net",)))
