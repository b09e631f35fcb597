"""AutoencoderTiny's decoder, rewritten so that it does the same arithmetic with fewer multiplications.

Three exact rewrites, each a change of algebra and not of the function:

1. Nearest upsampling by 2 and then a 3x3 convolution reads every pixel up to four times. The same map is a
   transposed convolution of size 4, stride 2, padding 1, whose taps are sums of the 3x3 taps: 4 instead of 9
   multiplications per output and channel pair.
2. A last stage without blocks is [upsample, 3x3, 3x3 to RGB] with no activation in between, so it is one linear
   map: a single 3x3 convolution at half the resolution with 12 outputs (2x2 phases of RGB). For 32 channels at
   512x512 that is 0.23 GMAC instead of 2.64 of the decoder's 6.7. Only the outermost pixels differ, because the
   second convolution sees zeros where the composed one sees the first convolution's overhang; they are computed
   by kernels composed without the taps that reach outside.
3. The scale to 0-255 is folded into the last kernel, centred on zero, where half precision is finest.

ReLUs and residual sums ride in the convolutions (`layers.Conv`). Everything is composed in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import nn
from torch.nn import functional

from onestroke.pipelines.layers import Conv

# Row o of each: which of the k taps land on input i-1, i, i+1 (phases) or i+1, i, i, i-1 (transposed).
_TRANSPOSED = [[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]
_PHASES = [
    [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
    [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]],
]


def upsampling_kernel(weight: torch.Tensor) -> torch.Tensor:
    """The transposed convolution (in, out, 4, 4) that equals nearest x2 and then `weight` (out, in, 3, 3)."""
    taps = torch.tensor(_TRANSPOSED, dtype=torch.float64)
    kernel: torch.Tensor = torch.einsum("ya,xb,oiab->ioyx", taps, taps, _exact(weight))
    return kernel


def composed_kernel(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Nearest x2, `first` (mid, in, 3, 3), `second` (out, mid, 3, 3), as one map at half the resolution.

    Returns (2, 2, out, in, 3, 3): a 3x3 kernel for each of the 2x2 output phases.
    """
    first, second = _exact(first), _exact(second)
    five = second.new_zeros(second.shape[0], first.shape[1], 5, 5)
    for y in range(3):
        for x in range(3):
            five[:, :, y : y + 3, x : x + 3] += torch.einsum("om,miab->oiab", second[:, :, y, x], first)
    taps = torch.tensor(_PHASES, dtype=torch.float64)
    kernels: torch.Tensor = torch.einsum("pya,qxb,oiab->pqoiyx", taps, taps, five)
    return kernels


def _exact(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().cpu().double()


class UpConv(nn.Module):
    """Nearest upsampling by 2 and a 3x3 convolution, as one transposed convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = upsampling_kernel(conv.weight).to(conv.weight)
        self.bias = None if conv.bias is None else conv.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv_transpose2d(x, self.weight, self.bias, stride=2, padding=1)


class Block(nn.Module):
    """AutoencoderTinyBlock with its ReLUs and its residual inside the convolutions."""

    def __init__(self, block: AutoencoderTinyBlock) -> None:
        super().__init__()
        first, second, third = (layer for layer in block.conv if isinstance(layer, nn.Conv2d))
        self.first = Conv(first.weight, first.bias, relu=True)
        self.second = Conv(second.weight, second.bias, relu=True)
        self.third = Conv(third.weight, third.bias, relu=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        after: torch.Tensor = self.third(self.second(self.first(x)), x)
        return after


class Last(nn.Module):
    """The last convolution of a decoder whose last stage has blocks: (n, C, h, w) to centred (n, h, w, 3)."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        bias = 0 if conv.bias is None else _exact(conv.bias) * 255
        centre = torch.full((3,), -127.5, dtype=torch.float64) + bias
        self.conv = Conv((_exact(conv.weight) * 255).to(conv.weight), centre.to(conv.weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.conv(x).permute(0, 2, 3, 1)
        return pixels


class Tail(nn.Module):
    """The last [upsample, 3x3, 3x3 to RGB] as one convolution: (n, C, h, w) to (n, 2h, 2w, 3).

    The output is channels last, in -127.5 to 127.5 for a picture in 0 to 1. Edge e stands for the side that
    loses the second convolution's tap e: 0 top or left, 2 bottom or right.
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        like, inner = second.weight, first.weight
        weight = _exact(second.weight) * 255
        bias = 0 if second.bias is None else _exact(second.bias) * 255
        self.bias = (torch.full((3,), -127.5, dtype=torch.float64) + bias).to(like)
        self.inside = Conv(composed_kernel(inner, weight).flatten(0, 2).to(like), self.bias.repeat(4))
        self.rows, self.columns = nn.ModuleList(), nn.ModuleList()
        for edge, kept in ((0, slice(1, 3)), (2, slice(0, 2))):
            phase = edge // 2
            lost = weight.clone()
            lost[:, :, edge] = 0
            row = composed_kernel(inner, lost)[phase][..., kept, :].flatten(0, 1)
            self.rows.append(Conv(row.to(like), self.bias.repeat(2), padding=(0, 1)))
            lost = weight.clone()
            lost[..., edge] = 0
            column = composed_kernel(inner, lost)[:, phase][..., kept].flatten(0, 1)
            self.columns.append(Conv(column.to(like), self.bias.repeat(2), padding=(1, 0)))
        corners = [torch.stack([_corner_kernel(inner, weight, y, x) for x in (0, 2)]) for y in (0, 2)]
        self.corners = torch.stack(corners).to(like)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        image: torch.Tensor = self.inside(x).permute(0, 2, 3, 1).view(n, height, width, 2, 2, 3)
        image = image.permute(0, 1, 3, 2, 4, 5).reshape(n, 2 * height, 2 * width, 3)
        for row, conv, part in zip((0, -1), self.rows, (x[:, :, :2], x[:, :, -2:]), strict=True):
            image[:, row] = conv(_last(part)).permute(0, 2, 3, 1).reshape(n, 2 * width, 3)
        for column, conv, part in zip((0, -1), self.columns, (x[..., :2], x[..., -2:]), strict=True):
            image[:, :, column] = conv(_last(part)).permute(0, 2, 3, 1).reshape(n, 2 * height, 3)
        outer = torch.cat(
            (x[:, :, :2], x[:, :, -2:]), 2
        )  # slices: an index list would be copied from the host
        patches = torch.cat((outer[..., :2], outer[..., -2:]), 3).reshape(n, -1, 2, 2, 2, 2)
        corners = torch.einsum("ncyaxb,yxocab->nyxo", patches, self.corners)
        image[:, :: 2 * height - 1, :: 2 * width - 1] = corners + self.bias
        return image


def _corner_kernel(inner: torch.Tensor, weight: torch.Tensor, y: int, x: int) -> torch.Tensor:
    """The kernel (3, C, 2, 2) of the corner pixel that loses the taps y and x of the second convolution."""
    lost = weight.clone()
    lost[:, :, y] = 0
    lost[..., x] = 0
    kernel = composed_kernel(inner, lost)[y // 2, x // 2]
    return kernel[..., 1 - y // 2 : 3 - y // 2, 1 - x // 2 : 3 - x // 2]


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class TinyDecoder(nn.Module):
    """A rewritten DecoderTiny: unscaled fp32 latents to centred pixels (n, height, width, 3)."""

    def __init__(self, layers: list[nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dtype = dtype

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        x = _last((torch.tanh(latents / 3) * 3).to(self.dtype))
        for layer in self.layers:
            x = layer(x)
        return x


def rewrite(vae: Any) -> TinyDecoder | None:
    """The rewritten decoder of an AutoencoderTiny, None where its layers are not those that this file knows."""
    decoder = getattr(vae, "decoder", None)
    if not isinstance(decoder, DecoderTiny):
        return None
    waiting = list(decoder.layers)
    layers: list[nn.Module] = []
    while waiting:
        match [type(layer) for layer in waiting[:3]]:
            case [nn.Upsample, nn.Conv2d, nn.Conv2d] if len(waiting) == 3 and _doubles(waiting[0]):
                if waiting[1].bias is not None:
                    return None  # Its bias would have to fade at the edges.
                layers.append(Tail(waiting[1], waiting[2]))
                return TinyDecoder(layers, decoder.layers[0].weight.dtype)
            case [nn.Conv2d] if waiting[0].out_channels == 3:
                layers.append(Last(waiting[0]))
                return TinyDecoder(layers, decoder.layers[0].weight.dtype)
            case [nn.Upsample, nn.Conv2d, *_] if _doubles(waiting[0]):
                layers.append(UpConv(waiting[1]))
                del waiting[:2]
            case [nn.Conv2d, nn.ReLU, *_]:
                layers.append(Conv(waiting[0].weight, waiting[0].bias, relu=True))
                del waiting[:2]
            case [kind, *_] if kind is AutoencoderTinyBlock and _is_plain(waiting[0]):
                layers.append(Block(waiting.pop(0)))
            case _:
                return None
    return None


def _doubles(upsample: nn.Upsample) -> bool:
    return upsample.mode == "nearest" and upsample.scale_factor in (2, 2.0, (2.0, 2.0))


def _is_plain(block: AutoencoderTinyBlock) -> bool:
    kinds = [type(layer) for layer in block.conv]
    plain = kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d]
    return plain and isinstance(block.skip, nn.Identity)
