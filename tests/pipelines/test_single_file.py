"""Single files in the original layouts load to the very weights that they were written from, and draw the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from benchmarks import checkpoints
from benchmarks.checkpoints import states_of, write_file
from onestroke.core import GenerationRequest
from onestroke.errors import ModelError
from onestroke.models.catalog import CATALOG
from onestroke.models.choosing import resolve
from onestroke.models.specs import ModelSpec
from onestroke.pipelines import single_file
from onestroke.pipelines.clip_tokenizer import clip_tokenizer
from onestroke.pipelines.loading import load
from onestroke.pipelines.parts import Parts, read_parts, read_vae
from tests.pipelines.tiny_models import SIZE, save_tiny_pipeline, save_tiny_sd

LAYOUTS = ("sdxl", "sd15", "sd21")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """Tiny models of every layout as diffusers folders, in one folder that stands for `models/configs`."""
    root = tmp_path_factory.mktemp("configs")
    specs = {layout: save_tiny_sd(root / layout, layout, clip=True) for layout in ("sd15", "sd21")}
    specs["sdxl"] = save_tiny_pipeline(root / "sdxl", prediction="epsilon", kl=True, clip=True)
    return specs


@pytest.fixture(scope="module")
def files(saved: dict[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in one file each."""
    folder = tmp_path_factory.mktemp("files")
    for layout, spec in saved.items():
        parts = states_of(named(read_parts(spec, torch.float32)))
        write_file(folder / f"{layout}.safetensors", layout, parts)
    return {layout: folder / f"{layout}.safetensors" for layout in saved}


@pytest.fixture(params=LAYOUTS)
def pair(
    request: pytest.FixtureRequest,
    saved: dict[str, ModelSpec],
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[ModelSpec, ModelSpec]:
    """A folder and a file."""
    folder = saved[request.param]
    monkeypatch.setattr(single_file, "CONFIGS", Path(folder.source).parent)
    return folder, replace(folder, source=str(files[request.param]))


def named(parts: Parts) -> dict[str, Any]:
    names = ("text_encoder", "text_encoder_2")
    return {"unet": parts.unet, "vae": parts.vae, **dict(zip(names, parts.text_encoders, strict=False))}


def test_every_weight_of_the_file_is_that_of_the_folder(pair: tuple[ModelSpec, ModelSpec]) -> None:
    one, other = (states_of(named(read_parts(spec, torch.float32))) for spec in pair)
    assert one.keys() == other.keys()
    for part, state in one.items():
        assert state.keys() == other[part].keys()
        assert all(torch.equal(tensor, other[part][name]) for name, tensor in state.items())


def test_the_file_draws_the_folders_picture(pair: tuple[ModelSpec, ModelSpec]) -> None:
    def draw(spec: ModelSpec) -> Any:
        pipeline = load(spec, device="cpu", dtype="float32", max_batch=2)
        request = GenerationRequest(
            "tiny", "a cat", 1, steps=2, sampler="ddim", guidance_scale=3.0, negative_prompt="dog",
            width=SIZE, height=SIZE,
        )  # fmt: skip
        row = pipeline.prepare(0, request)
        pipeline.encode([row])
        while not row.finished:
            pipeline.step([row])
        return next(iter(pipeline.decode([row])))[1][0]

    folder, file = pair
    assert (draw(folder) == draw(file)).all()


@pytest.mark.parametrize("layout", ["sdxl", "sd15"])
def test_a_folder_of_fp16_shards_is_read_too(
    saved: dict[str, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(checkpoints, "CONFIGS", Path(saved[layout].source).parent)
    parts = states_of(named(read_parts(saved[layout], torch.float16)))
    model = checkpoints.Model(layout, 16, "EulerDiscreteScheduler")
    checkpoints.write_folder(tmp_path, model, parts.items(), "300KB")
    shutil.copytree(Path(saved[layout].source) / "scheduler", tmp_path / "scheduler")
    assert len(list((tmp_path / "unet").glob("*.fp16-*.safetensors"))) > 1
    spec = resolve(str(tmp_path))
    assert spec.variant == "fp16"
    assert spec.default_size == (SIZE, SIZE)
    read = read_parts(spec, torch.float16)
    assert read.tokenizers[0]("a cat").input_ids == clip_tokenizer()("a cat").input_ids
    for part, state in states_of(named(read)).items():
        assert all(torch.equal(tensor, parts[part][name]) for name, tensor in state.items())


def test_half_precision_is_read_as_half_precision(pair: tuple[ModelSpec, ModelSpec]) -> None:
    parts = read_parts(pair[1], torch.bfloat16)
    for part in (parts.unet, parts.vae, *parts.text_encoders):
        assert {tensor.dtype for tensor in part.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("prefix", ["model.diffusion_model.output_blocks.1", "first_stage_model.decoder.mid"])
def test_a_file_without_some_of_its_weights_is_refused(
    pair: tuple[ModelSpec, ModelSpec], tmp_path: Path, prefix: str
) -> None:
    path = tmp_path / "some.safetensors"
    tensors = load_file(pair[1].source)
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}, path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        read_parts(replace(pair[1], source=str(path)), torch.float32)


def test_the_embedded_tokenizer_is_clips() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(tokenizer), tokenizer.pad_token_id, clip_tokenizer(pad="!").pad_token_id) == (49408, 49407, 0)


@pytest.mark.parametrize(
    ("name", "recipe", "steps", "size"),
    [
        ("sd_xl_turbo_1.0_fp16", "auto", 1, 512),
        ("sd_xl_base_1.0", "auto", 30, 1024),
        ("anything", "sdxl-turbo", 1, 512),
    ],
)
def test_a_file_is_sampled_by_its_name_or_by_the_recipe_asked_for(
    files: dict[str, Path], tmp_path: Path, name: str, recipe: str, steps: int, size: int
) -> None:
    path = tmp_path / f"{name}.safetensors"
    path.hardlink_to(files["sdxl"])
    spec = resolve(str(path), recipe=recipe)
    assert (spec.default_steps, spec.default_size, spec.family) == (steps, (size, size), "sdxl")


def vae_files() -> dict[str, Callable[[Path, ModelSpec], Path]]:
    def kl_folder(path: Path, spec: ModelSpec) -> Path:
        return Path(spec.source) / "vae"

    def whole_folder(path: Path, spec: ModelSpec) -> Path:
        return Path(spec.source)

    def kl_file(path: Path, spec: ModelSpec) -> Path:
        return Path(spec.source) / "vae" / "diffusion_pytorch_model.safetensors"

    def original_file(path: Path, spec: ModelSpec) -> Path:
        write_file(path / "whole.safetensors", "sd15", states_of(named(read_parts(spec, torch.float32))))
        tensors = load_file(path / "whole.safetensors")
        prefix = "first_stage_model."
        vae = {
            name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
        }
        save_file(vae, path / "vae.safetensors")
        return path / "vae.safetensors"

    return {"folder": kl_folder, "whole": whole_folder, "file": kl_file, "original": original_file}


@pytest.mark.parametrize("form", vae_files())
def test_a_vae_is_read_from_a_folder_or_a_file(
    saved: dict[str, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    spec = saved["sd15"]
    monkeypatch.setattr(single_file, "CONFIGS", Path(spec.source).parent)
    own = read_vae(spec, torch.float32)
    other = read_vae(replace(spec, vae=str(vae_files()[form](tmp_path, spec))), torch.float32)
    assert isinstance(other, AutoencoderKL)
    assert not other.config.force_upcast
    for name, tensor in own.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_a_tiny_vae_is_read_from_a_file(saved: dict[str, ModelSpec], tmp_path: Path) -> None:
    tiny = AutoencoderTiny()
    path = tmp_path / "taesd.safetensors"
    save_file(tiny.state_dict(), path)
    found = read_vae(replace(saved["sd15"], vae=str(path)), torch.bfloat16)
    assert isinstance(found, AutoencoderTiny)
    assert found.dtype is torch.bfloat16
    save_file(dict(list(tiny.state_dict().items())[:-3]), path)
    with pytest.raises(ModelError, match="lacks 3"):
        read_vae(replace(saved["sd15"], vae=str(path)), torch.bfloat16)


def original_control(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ControlNet's weights as the original code names them, with four widths of what reads its image."""
    hints = ("conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out")
    outer = {
        **{f"controlnet_cond_embedding.{name}": f"input_hint_block.{2 * i}" for i, name in enumerate(hints)},
        **{f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(9)},
        "controlnet_mid_block": "middle_block_out.0",
    }
    inner = {name: tensor for name, tensor in state.items() if not name.startswith("controlnet_")}
    made = {
        f"{outer[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in state.items()
        if name not in inner
    } | checkpoints._unet(inner)
    return {f"control_model.{name}": tensor for name, tensor in made.items()}


@pytest.mark.parametrize("layout", ["sdxl", "sd15"])
def test_a_controlnet_in_the_original_layout_is_read_to_the_very_weights(
    saved: dict[str, ModelSpec], layout: str, tmp_path: Path
) -> None:
    unet = UNet2DConditionModel.from_pretrained(saved[layout].source, subfolder="unet")
    state = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16)).state_dict()
    state = {name: torch.randn_like(tensor) for name, tensor in state.items()}
    path = tmp_path / "control.safetensors"
    save_file(original_control(state), path)
    read = single_file.read_control_file(path, unet, torch.float32).state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(tensor, read[name]) for name, tensor in state.items())
    broken = {name: tensor for name, tensor in original_control(state).items() if "zero_convs.1" not in name}
    save_file(broken, path)
    with pytest.raises(ModelError, match="another kind of model"):
        single_file.read_control_file(path, unet, torch.float32)


def test_a_vae_for_other_latents_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taesd.safetensors"
    save_file(AutoencoderTiny().state_dict(), path)
    with pytest.raises(ModelError, match="latents of 4 channels and embedded makes 24"):
        load(replace(CATALOG["embedded"], vae=str(path)), device="cpu")


def test_a_file_that_is_no_vae_is_refused(saved: dict[str, ModelSpec], tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    shutil.copy(Path(saved["sd15"].source) / "unet" / "diffusion_pytorch_model.safetensors", path)
    with pytest.raises(ModelError, match="is not a VAE"):
        read_vae(replace(saved["sd15"], vae=str(path)), torch.float32)
