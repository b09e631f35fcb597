"""The synthetic checkpoints are the published ones in everything but their numbers."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import SD_2_TEXT_ENCODER_KEYS_TO_IGNORE

from benchmarks.checkpoints import fill, original, parts_of, states_of

PARAMETERS = {
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "text_encoder"): 123_060_480,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("sdxl", "vae"): 83_653_863,
    ("sd15", "unet"): 859_520_964,
    ("sd15", "text_encoder"): 123_060_480,
    ("sd21", "unet"): 865_910_724,
    ("sd21", "text_encoder"): 340_387_840,
    ("sd21", "vae"): 83_653_863,
}
"""As diffusers and transformers count the published models."""


@functools.cache
def parts(layout: str) -> dict[str, Any]:
    return parts_of(layout)


@pytest.mark.parametrize(("layout", "part"), PARAMETERS)
def test_every_part_has_the_published_number_of_parameters(layout: str, part: str) -> None:
    assert sum(each.numel() for each in parts(layout)[part].parameters()) == PARAMETERS[layout, part]


def test_the_decoder_is_the_published_one() -> None:
    vae = parts("sdxl")["vae"]
    decoder = sum(each.numel() for part in (vae.decoder, vae.post_quant_conv) for each in part.parameters())
    assert decoder == 49_490_199


@pytest.mark.parametrize(("layout", "tensors"), [("sdxl", 2515), ("sd15", 1131)])
def test_a_file_has_the_published_number_of_tensors(layout: str, tensors: int) -> None:
    assert len(original(layout, states_of(parts(layout)))) == tensors


def test_sd_21_brings_the_layer_that_nobody_reads() -> None:
    tensors = original("sd21", states_of(parts("sd21")))
    assert set(SD_2_TEXT_ENCODER_KEYS_TO_IGNORE) <= tensors.keys()
    assert tensors["cond_stage_model.model.text_projection"].shape == (1024, 1024)


PUBLISHED = {
    "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
    "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "model.diffusion_model.output_blocks.2.2.conv.bias": (1280,),
    "model.diffusion_model.middle_block.2.out_layers.3.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
    "model.diffusion_model.output_blocks.8.0.skip_connection.weight": (320, 640, 1, 1),
    "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "first_stage_model.encoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
    "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight": (3840, 1280),
    "conditioner.embedders.1.model.text_projection": (1280, 1280),
    "conditioner.embedders.1.model.positional_embedding": (77, 1280),
}


def test_sdxls_tensors_have_the_published_names_and_shapes() -> None:
    tensors = original("sdxl", states_of(parts("sdxl")))
    assert {name: tuple(tensors[name].shape) for name in PUBLISHED} == PUBLISHED


def test_one_seed_makes_the_same_weights_and_another_makes_others() -> None:
    state = {"a.weight": torch.empty(4, 3), "norm.weight": torch.empty(4), "a.bias": torch.empty(4)}

    def filled(seed: int) -> dict[str, torch.Tensor]:
        return fill(state, torch.float16, torch.Generator().manual_seed(seed))

    first = filled(1)
    assert torch.equal(first["a.weight"], filled(1)["a.weight"])
    assert not torch.equal(first["a.weight"], filled(2)["a.weight"])
    assert (first["norm.weight"] == 1).all()
    assert (first["a.bias"] == 0).all()
    assert {tensor.dtype for tensor in first.values()} == {torch.float16}
