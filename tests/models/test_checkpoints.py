"""What a single file is, told from its header alone; what cannot be served is named."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from onestroke.errors import ModelError
from onestroke.models.checkpoints import read_header, recognise

UNET = "model.diffusion_model.input_blocks.0.0.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
CLIP = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
SDXL = (
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "conditioner.embedders.1.model.token_embedding.weight",
)


def write(
    path: Path, names: Sequence[str], *, channels: int = 4, metadata: dict[str, str] | None = None
) -> Path:
    """A safetensors file of one number for each name; the UNet's input has `channels`."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in names:
        size = channels if name == UNET else 1
        header[name] = {"dtype": "F16", "shape": [1, size], "data_offsets": [end, end + 2 * size]}
        end += 2 * size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return path


@pytest.mark.parametrize(
    ("text", "name", "metadata", "layout", "recipe"),
    [
        (SDXL, "sd_xl_base_1.0", None, "sdxl", "sdxl-base"),
        (SDXL, "sd_xl_turbo_1.0_fp16", None, "sdxl", "sdxl-turbo"),
        (SDXL, "x", {"modelspec.title": "Some Turbo v1"}, "sdxl", "sdxl-turbo"),
        ((CLIP,), "v1-5-pruned-emaonly", None, "sd15", "sd15"),
        ((OPEN_CLIP,), "v2-1_768-ema-pruned", None, "sd21", "sd21"),
        ((OPEN_CLIP,), "v2-1_512-ema-pruned", None, "sd21", "sd21-base"),
        ((OPEN_CLIP,), "x", {"modelspec.prediction_type": "epsilon"}, "sd21", "sd21-base"),
        ((OPEN_CLIP,), "x-512", {"modelspec.prediction_type": "v"}, "sd21", "sd21"),
        ((OPEN_CLIP,), "sd_turbo", None, "sd21", "sd-turbo"),
    ],
)
def test_a_whole_model_is_known_by_its_tensors_and_sampled_by_what_it_says_of_itself(
    tmp_path: Path, text: Sequence[str], name: str, metadata: dict[str, str] | None, layout: str, recipe: str
) -> None:
    found = recognise(write(tmp_path / f"{name}.safetensors", (UNET, VAE, *text), metadata=metadata))
    assert (found.layout.name, found.recipe) == (layout, recipe)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("lora_unet_down_blocks_0.lora_down.weight", "lora_te_text_model.alpha"), "a LoRA"),
        ((UNET, VAE, *SDXL, "lora_unet_x.lora_up.weight"), "a LoRA"),
        (("control_model.input_hint_block.0.weight",), "a ControlNet"),
        (
            ("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
            "a ControlNet",
        ),
        ((VAE,), "a VAE only"),
        (("decoder.conv_in.weight", "encoder.conv_in.weight"), "a VAE only"),
        (("down_blocks.0.resnets.0.conv1.weight",), "a UNet without"),
        ((UNET,), "a UNet without"),
        (("double_blocks.0.img_attn.proj.weight",), "a FLUX model"),
        (("model.diffusion_model.joint_blocks.0.x", VAE), "an SD 3 model"),
        ((UNET, VAE, "conditioner.embedders.0.model.token_embedding.weight"), "the SDXL refiner"),
        (("text_model.encoder.layers.0.mlp.fc1.weight",), "a text encoder only"),
        (("what.ever",), r"none that is known \(its tensors: what\.ever\)"),
    ],
)
def test_anything_else_is_named(tmp_path: Path, names: Sequence[str], kind: str) -> None:
    path = write(tmp_path / "x.safetensors", names)
    with pytest.raises(ModelError, match=rf"is {kind}.*; a whole SDXL, SD 2\.1 or SD 1\.5 model"):
        recognise(path)


def test_a_model_for_another_task_or_without_a_vae_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"an SD 1\.x checkpoint with 9 input channels"):
        recognise(write(tmp_path / "a.safetensors", (UNET, VAE, CLIP), channels=9))
    with pytest.raises(ModelError, match=r"an SD 1\.x checkpoint without its VAE"):
        recognise(write(tmp_path / "b.safetensors", (UNET, CLIP)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"PK\x03\x04" + bytes(20), "pickled checkpoint under another name"),
        (b"\x80\x02}q\x00" + bytes(20), "pickled checkpoint under another name"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "error page"),
        (struct.pack("<Q", 500) + b"{", "cut short within its header"),
        (struct.pack("<Q", 4) + b"{no}", "header that cannot be read"),
        (struct.pack("<Q", 8) + b'{"a": 1}', "header that cannot be read"),
    ],
)
def test_what_is_no_safetensors_file_is_said_to_be_none(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        recognise(path)


def test_a_file_cut_short_says_how_much_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", (UNET, VAE, CLIP))
    whole = path.read_bytes()
    assert read_header(path).tensors[UNET].shape == (1, 4)
    path.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=f"cut short: {len(whole) - 1:,} of {len(whole):,} bytes"):
        read_header(path)
