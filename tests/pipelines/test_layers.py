"""Specialised layers compute what plain ones compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from onestroke.pipelines import layers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_packed_layers_give_what_plain_ones_give(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.Conv2d(32, 8, 1, bias=False)).to(
        dtype
    )
    packed = nn.Sequential(*plain)
    count = layers.specialise(packed)
    assert count in (0, 2)
    for size in (8, 16):
        x = torch.randn(2, 16, size, size, dtype=dtype).contiguous(memory_format=torch.channels_last)
        assert torch.allclose(packed(x), plain(x), atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
@torch.inference_mode()
def test_a_convolution_adds_its_residual_before_its_relu(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(layers, "packs", lambda weight: False)
    torch.manual_seed(0)
    weight, bias = torch.randn(8, 8, 3, 3), torch.randn(8)
    x = torch.randn(1, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    expected = functional.relu(functional.conv2d(x, weight, bias, padding=1) + x)
    assert torch.allclose(layers.Conv(weight, bias, relu=True)(x, x), expected, atol=1e-4)


@pytest.mark.parametrize("size", [2, 8, 31, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_group_normalisation_is_the_plain_one_at_every_size(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(8, 24).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    holder = nn.Sequential(norm)
    assert layers.specialise(holder) == 1
    x = torch.randn(3, 24, size, size, dtype=dtype)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        found = holder(given)
        assert torch.allclose(
            found.float(), norm(given).float(), atol=1e-5 if dtype is torch.float32 else 0.04
        )
        assert found.stride() == norm(given).stride()
