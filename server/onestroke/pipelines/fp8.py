"""Linear layers in eight-bit floats, scaled as they run: what the tensor cores of Ada and Hopper do twice as fast.

Weights are rounded once, with a scale for each output; activations at every call, with a scale for each row. The
product is `torch._scaled_mm`'s on CUDA. Elsewhere the same rounding is followed by an ordinary product, which
gains nothing and shows what the rounding costs the picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onestroke.errors import ModelError

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
LEAST = 512
"""Features in and out from which on a layer is quantised: below, rounding costs more time than it saves."""
ALIGNED = 16
CAPABILITY = (8, 9)
"""The first NVIDIA cards that multiply eight-bit floats."""


class Fp8Linear(nn.Module):
    """A linear layer with its weight in eight bits."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight, scale = rounded(linear.weight.detach())
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        flat, scale = rounded(x.flatten(0, -2))
        if x.device.type == "cuda":
            # Row-wise scales come with bf16 results alone.
            out: torch.Tensor = torch._scaled_mm(
                flat.contiguous(),
                self.weight.t(),
                scale_a=scale,
                scale_b=self.scale.t(),
                out_dtype=torch.bfloat16,
            )
            out = out.to(x.dtype)
        else:
            out = functional.linear(flat.float() * scale, self.weight.float() * self.scale).to(x.dtype)
        if self.bias is not None:
            out = out + self.bias
        return out.view(*x.shape[:-1], self.out_features)


def rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, k) in eight bits and the fp32 scales (n, 1) that give it back."""
    scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FP8), scale


def quantise(network: nn.Module, device: torch.device, least: int = LEAST) -> int:
    """Put the linear layers of `network`'s transformer blocks in eight bits, and say how many.

    The first and last layers and those that carry the time step stay as they are. Raises ModelError on a card
    that cannot.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        raise ModelError("this card does not multiply eight-bit floats: use --quantize off")
    found = 0
    for block in list(network.modules()):
        if type(block).__name__ != "BasicTransformerBlock":
            continue
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear) and _pays(layer, least):
                    setattr(parent, name, Fp8Linear(layer))
                    found += 1
    return found


def _pays(layer: nn.Linear, least: int) -> bool:
    sizes = layer.in_features, layer.out_features
    return min(sizes) >= least and all(size % ALIGNED == 0 for size in sizes)
