"""Whole models in one `.safetensors` file, in the original layouts of SDXL, SD 2.1 and SD 1.5.

diffusers' own converters rename the tensors; the configurations that they need are in `models/configs`, so nothing
is looked up on the hub.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_TO_LDM_MAPPING,
    convert_controlnet_checkpoint,
    create_diffusers_clip_model_from_ldm,
)
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from onestroke.errors import ModelError
from onestroke.models.catalog import CONFIGS
from onestroke.models.checkpoints import UNET, VAE, Layout, read_header
from onestroke.pipelines.clip_tokenizer import clip_tokenizer

TEXT_ENCODERS: dict[str, tuple[tuple[str, str, Any, str], ...]] = {
    "sdxl": (
        ("text_encoder", "conditioner.embedders.0.", CLIPTextModel, "<|endoftext|>"),
        ("text_encoder_2", "conditioner.embedders.1.", CLIPTextModelWithProjection, "!"),
    ),
    "sd21": (("text_encoder", "cond_stage_model.", CLIPTextModel, "!"),),
    "sd15": (("text_encoder", "cond_stage_model.", CLIPTextModel, "<|endoftext|>"),),
}
"""By layout: the part, its tensors' prefix, its class, and what its tokenizer pads with."""


READS_IMAGE = "controlnet_cond_embedding."
ADDED: dict[str, str] = DIFFUSERS_TO_LDM_MAPPING["controlnet"]["addition_embed_type"]
"""The layers that read SDXL's micro-conditioning, which diffusers' converter leaves out."""


def configs_of(layout: Layout) -> Path:
    """The diffusers folder, without weights, that describes the parts of `layout`."""
    return CONFIGS / layout.name


def parameters_in(path: Path) -> int:
    """How many of the numbers in the file are served; others may hold a second copy (EMA)."""
    prefixes = (UNET, VAE, "conditioner.", "cond_stage_model.")
    return sum(
        tensor.numel for name, tensor in read_header(path).tensors.items() if name.startswith(prefixes)
    )


def read_unet(path: Path, layout: Layout, dtype: torch.dtype) -> Any:
    return _read(UNet2DConditionModel, _tensors(path, UNET), configs_of(layout), "unet", dtype)


def read_own_vae(path: Path, layout: Layout, dtype: torch.dtype) -> Any:
    return _read(AutoencoderKL, _tensors(path, VAE), configs_of(layout), "vae", dtype)


def read_unet_file(path: Path, model: Path, dtype: torch.dtype) -> Any:
    """A UNet alone in a file, in diffusers' layout or the original, of the shape of the one in the folder `model`.

    Raises ModelError.
    """
    names = read_header(path).tensors
    if not any(name.removeprefix(UNET).startswith(("input_blocks.", "down_blocks.")) for name in names):
        raise ModelError(f"{path} holds no UNet")
    return _read(UNet2DConditionModel, _tensors(path, ""), model, "unet", dtype)


def read_control_file(path: Path, unet: Any, dtype: torch.dtype) -> Any:
    """A ControlNet alone in a file, in diffusers' layout or the original, of the shape of `unet`.

    Raises ModelError.
    """
    given = _tensors(path, "")
    found = convert_controlnet_checkpoint(given, unet.config)
    plain = {name.removeprefix("control_model."): tensor for name, tensor in given.items()}
    found = {**found, **{name: plain[old] for name, old in ADDED.items() if old in plain}}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    first, blocks = f"{READS_IMAGE}conv_in.weight", f"{READS_IMAGE}blocks."
    if first not in tensors:
        raise ModelError(f"{path} holds no ControlNet")
    widening = (f"{blocks}{i}.weight" for i in range(1, len(tensors), 2))
    channels = [len(tensors[name]) for name in (first, *takewhile(tensors.__contains__, widening))]
    net = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=tuple(channels), load_weights_from_unet=False
    )
    own = net.state_dict()
    if odd := [name for name in sorted(own | tensors) if _shape(own, name) != _shape(tensors, name)]:
        raise ModelError(f"{path} was made for another kind of model ({odd[0]})")
    net.load_state_dict(tensors)
    return net.to(dtype)


def _shape(tensors: dict[str, torch.Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def read_text_encoders(path: Path, layout: Layout, dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(
        _whole(
            create_diffusers_clip_model_from_ldm(
                kind,
                checkpoint=_tensors(path, prefix),
                subfolder=part,
                config=str(configs_of(layout)),
                torch_dtype=dtype,
                local_files_only=True,
            ),
            part,
        )
        for part, prefix, kind, _ in TEXT_ENCODERS[layout.name]
    )


def make_tokenizers(layout: Layout) -> tuple[Any, ...]:
    return tuple(clip_tokenizer(pad=pad) for *_, pad in TEXT_ENCODERS[layout.name])


def read_vae_file(path: Path, family: str, dtype: torch.dtype) -> Any:
    """A VAE alone in a file: an AutoencoderKL in the original or in diffusers' layout, or an AutoencoderTiny.

    Raises ModelError for anything else.
    """
    names = read_header(path).tensors
    tensors = _tensors(path, "")
    if any(name.startswith("decoder.layers.") for name in names):
        vae = AutoencoderTiny()
        missing = vae.load_state_dict(tensors, strict=False).missing_keys
        if missing:
            raise ModelError(f"{path} lacks {len(missing)} of a tiny VAE's weights, such as {missing[0]}")
        return vae.to(dtype)
    if not any("decoder.conv_out." in name for name in names):
        raise ModelError(f"{path} is not a VAE: AutoencoderKL and AutoencoderTiny can be read")
    config = str(CONFIGS / ("sdxl" if family == "sdxl" else "sd15"))
    return _whole(
        AutoencoderKL.from_single_file(
            tensors, config=config, subfolder="vae", dtype=dtype, local_files_only=True
        ),
        "the VAE",
    )


def _read(kind: Any, tensors: dict[str, torch.Tensor], config: Path, part: str, dtype: torch.dtype) -> Any:
    """The part whose configuration is in the diffusers folder `config`."""
    model = kind.from_single_file(
        tensors, config=str(config), subfolder=part, dtype=dtype, local_files_only=True
    )
    return _whole(model, part)


def _tensors(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names start with `prefix`; their pages are read from disk when they are used."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118


def _whole(model: Any, part: str) -> Any:
    """`model`, none of whose weights were left out. Raises ModelError."""
    empty = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if empty:
        raise ModelError(f"{part} lacks {len(empty)} weights, such as {empty[0]}: the file is not whole")
    return model
