"""The rewritten decoder is the decoder it was made from, everywhere, the outermost pixels included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.nn import functional

from onestroke.pipelines.decoder import Decoder, safe_dtype, to_bytes
from onestroke.pipelines.tiny_decoder import composed_kernel, rewrite, upsampling_kernel

CPU = torch.device("cpu")


def make_vae(blocks: tuple[int, ...] = (2, 1, 0), width: int = 32, **options: Any) -> AutoencoderTiny:
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(width,) * len(blocks),
        decoder_block_out_channels=(width,) * len(blocks),
        num_encoder_blocks=(1,) * len(blocks),
        num_decoder_blocks=blocks,
        **options,
    ).eval()
    with torch.no_grad():
        for weight in vae.decoder.parameters():
            weight.mul_(2)
    return vae


def centred(vae: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """What diffusers decodes, in the rewritten decoder's scale and layout."""
    return vae.decode(latents, return_dict=False)[0].permute(0, 2, 3, 1) * 127.5


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (2, 2), (5, 12), (16, 3)])
@pytest.mark.parametrize("blocks", [(2, 1, 0), (1, 0), (1, 0, 2, 0), (1, 2, 1)])
def test_the_rewritten_decoder_equals_diffusers_everywhere(
    blocks: tuple[int, ...], height: int, width: int
) -> None:
    vae = make_vae(blocks)
    fast = rewrite(vae)
    assert fast is not None
    latents = torch.randn(3, 4, height, width) * 2
    expected = centred(vae, latents)
    assert expected.std() > 20
    assert (fast(latents) - expected).abs().max() <= 1e-5 * 127.5 * max(
        1.0, float(expected.abs().max()) / 127.5
    )


@torch.inference_mode()
def test_without_the_edge_kernels_the_outermost_pixels_are_wrong() -> None:
    vae = make_vae((1, 0))
    fast = rewrite(vae)
    assert fast is not None
    x = fast.layers[0](torch.randn(1, 4, 8, 8))
    x = fast.layers[1](x)
    tail = fast.layers[2]
    inside = (
        tail.inside(x)
        .permute(0, 2, 3, 1)
        .view(1, 8, 8, 2, 2, 3)
        .permute(0, 1, 3, 2, 4, 5)
        .reshape(1, 16, 16, 3)
    )
    off = (inside - tail(x)).abs().amax(-1)[0]
    assert off[1:-1, 1:-1].max() == 0
    assert min(off[0].max(), off[-1].max(), off[:, 0].max(), off[:, -1].max()) > 1


@torch.inference_mode()
def test_a_transposed_convolution_is_upsampling_and_a_convolution() -> None:
    x, weight = torch.randn(2, 5, 7, 4).double(), torch.randn(6, 5, 3, 3).double()
    expected = functional.conv2d(functional.interpolate(x, scale_factor=2), weight, padding=1)
    found = functional.conv_transpose2d(x, upsampling_kernel(weight), stride=2, padding=1)
    assert torch.allclose(found, expected, atol=1e-12)


@torch.inference_mode()
def test_a_composed_kernel_is_upsampling_and_two_convolutions_inside() -> None:
    x = torch.randn(1, 5, 6, 6).double()
    first, second = torch.randn(7, 5, 3, 3).double(), torch.randn(3, 7, 3, 3).double()
    expected = functional.conv2d(functional.interpolate(x, scale_factor=2), first, padding=1)
    expected = functional.conv2d(expected, second, padding=1)
    kernels = composed_kernel(first, second).permute(2, 0, 1, 3, 4, 5).flatten(0, 2)
    found = functional.pixel_shuffle(functional.conv2d(x, kernels, padding=1), 2)
    assert torch.allclose(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"act_fn": "silu"},
        {"upsample_fn": "bilinear"},
        {"upsampling_scaling_factor": 4},
    ],
    ids=str,
)
@torch.inference_mode()
def test_an_unknown_layout_is_left_to_diffusers(options: dict[str, Any]) -> None:
    vae = make_vae(**options)
    decoder = Decoder(vae, device=CPU, dtype=torch.float32)
    assert decoder.fast is None
    latents = torch.randn(1, 4, 8, 8)
    off = decoder(latents)[0].astype(int) - to_bytes(centred(vae, latents)).numpy()
    assert np.abs(off).max() <= 1


@torch.inference_mode()
def test_half_precision_is_no_further_from_the_oracle_than_diffusers_own() -> None:
    vae, half = make_vae(), make_vae().to(torch.bfloat16)
    fast = rewrite(half)
    assert fast is not None
    latents = torch.randn(8, 4, 16, 16) * 2
    oracle = centred(vae, latents).clamp(-127.5, 127.5)
    ours = (fast(latents).float().clamp(-127.5, 127.5) - oracle).abs()
    theirs = (centred(half, latents.bfloat16()).float().clamp(-127.5, 127.5) - oracle).abs()
    assert ours.mean() <= 1.1 * theirs.mean()
    assert ours.flatten().quantile(0.99) <= 1.1 * theirs.flatten().quantile(0.99)


def test_pixels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-300.0, -127.5, -127.1, -126.9, 0.0, 127.4, 300.0]).view(1, 1, 7, 1)
    assert to_bytes(values).flatten().tolist() == [0, 0, 0, 1, 128, 255, 255]


def test_a_kl_decoder_that_overflows_in_fp16_runs_in_fp32_on_the_cpu() -> None:
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, force_upcast=True)
    assert safe_dtype(vae, torch.float16, CPU) is torch.float32
    assert safe_dtype(vae, torch.bfloat16, CPU) is torch.bfloat16
    fixed = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, force_upcast=False)
    assert safe_dtype(fixed, torch.float16, CPU) is torch.float16
    assert safe_dtype(make_vae(), torch.float16, CPU) is torch.float16
