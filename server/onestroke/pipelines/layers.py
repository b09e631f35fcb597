"""Layers that compute what torch's compute, faster on CPUs.

*Convolutions and linear layers.* torch reorders a layer's weights into oneDNN's blocked layout on every call;
where the weights outweigh the activations (the small, deep levels of a UNet at batch 1) that costs as much as
the arithmetic. Here they are packed once, by the operators that torch's own compiler emits for CPUs, which also
take the ReLU and the residual sum that follow into the same pass over memory.

*Group normalisation.* Below 1024 pixels torch's channels-last kernel walks a group's few channels at a time; a
round trip through the contiguous layout is 3 to 10 times faster (measured at 2x2 to 16x16, 64 to 320 channels).

Where oneDNN or its operators are missing everything here is plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

_OPS: Any = torch.ops.mkldnn


def packs(weight: torch.Tensor) -> bool:
    """Whether oneDNN packs `weight`: on the CPU, in fp32, or in bf16 where the CPU multiplies it."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not all(hasattr(_OPS, name) for name in ("_convolution_pointwise", "_linear_pointwise")):
        return False
    return weight.dtype is torch.float32 or (weight.dtype is torch.bfloat16 and has_bf16())


def has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


class Conv(nn.Module):
    """A convolution of stride 1, with an optional residual to add and an optional ReLU behind it.

    `weight` is (out, in, height, width). Weights are packed at the first call, for its spatial size; other
    sizes work too. A `weight` that is put in later is packed in the same way.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        padding: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.padding, self.stride, self.relu = padding, stride, relu
        self._packs = packs(weight)
        self._shape: list[int] = []

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if not self._packs:
            return self._plain(x, residual)
        if not self.weight.is_mkldnn:
            self._shape = self._shape or list(x.shape)
            self.weight = _OPS._reorder_convolution_weight(
                self.weight, self.padding, self.stride, (1, 1), 1, self._shape
            )
        shape = (self.padding, self.stride, (1, 1), 1)
        if residual is None:
            after = "relu" if self.relu else "none"
            fused: torch.Tensor = _OPS._convolution_pointwise(
                x, self.weight, self.bias, *shape, after, [], ""
            )
        else:
            after_sum = "relu" if self.relu else None
            fused = _OPS._convolution_pointwise.binary(
                x, residual, self.weight, self.bias, *shape, "add", 1.0, after_sum, [], ""
            )
        return fused

    def _plain(self, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        x = functional.conv2d(x, self.weight, self.bias, padding=self.padding, stride=self.stride)
        if residual is not None:
            x = x + residual
        return functional.relu(x) if self.relu else x


class PackedLinear(nn.Module):
    """A bf16 linear layer whose weights are packed at the first call; see `Conv`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight.detach()
        self.bias = None if linear.bias is None else linear.bias.detach()
        self._rows = 0

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if not self.weight.is_mkldnn:
            self._rows = self._rows or x.numel() // x.shape[-1]
            self.weight = _OPS._reorder_linear_weight(self.weight, self._rows)
        packed: torch.Tensor = _OPS._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return packed


class PackedConv(Conv):
    """`nn.Conv2d` as diffusers calls it, which passes a LoRA scale that plain layers ignore."""

    def __init__(self, conv: nn.Conv2d) -> None:
        padding, stride = conv.padding, conv.stride
        assert isinstance(padding, tuple)
        super().__init__(
            conv.weight, conv.bias, padding=(padding[0], padding[1]), stride=(stride[0], stride[1])
        )

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return super().forward(x)


class SmallGroupNorm(nn.GroupNorm):
    """Group normalisation that takes small channels-last pictures through the contiguous layout."""

    PIXELS = 1024
    """From this many on torch's channels-last kernel takes another way, and is the faster one."""

    @classmethod
    def of(cls, norm: nn.GroupNorm) -> SmallGroupNorm:
        made = cls(norm.num_groups, norm.num_channels, norm.eps, norm.affine, device="meta")
        made.weight, made.bias = norm.weight, norm.bias
        return made.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = x.dim() == 4 and x.shape[2] * x.shape[3] < self.PIXELS
        if not small or x.is_contiguous():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def specialise(module: nn.Module) -> int:
    """Replace the layers inside `module` that run faster here, and say how many. The function does not change.

    Linear layers are packed in bf16 only: in fp32 torch uses MKL, whose packing is not reachable here.
    """
    count = 0
    for name, child in list(module.named_children()):
        made = _specialised(child)
        if made is None:
            count += specialise(child)
        else:
            setattr(module, name, made)
            count += 1
    return count


def _specialised(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, nn.Conv2d) and _packs_conv(layer):
        return PackedConv(layer)
    if isinstance(layer, nn.Linear) and layer.weight.dtype is torch.bfloat16 and packs(layer.weight):
        return PackedLinear(layer)
    if isinstance(layer, nn.GroupNorm) and layer.weight is not None and layer.weight.device.type == "cpu":
        return SmallGroupNorm.of(layer)
    return None


def _packs_conv(conv: nn.Conv2d) -> bool:
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return plain and isinstance(conv.padding, tuple) and packs(conv.weight)
