"""Image tokens to pixels and back over diffusers' VQModel."""

from __future__ import annotations

from typing import Any

import torch

from onestroke.pipelines.decoder import to_bytes
from onestroke.pipelines.images import Pixels


class TokenCodec:
    """The VQ model with everything around it. `scale` is the number of pixels per token along a side."""

    def __init__(self, vq: Any) -> None:
        self.vq = vq
        self.scale = int(2 ** (len(vq.config.block_out_channels) - 1))

    def encode(self, pixels: Pixels) -> torch.Tensor:
        """Pixels (height, width, 3) to tokens (h, w), each the nearest of the codebook."""
        image = torch.tensor(pixels, device=self.vq.device).permute(2, 0, 1)[None].float() / 255
        latents = self.vq.encode(image.to(self.vq.dtype), return_dict=False)[0]
        tokens: torch.Tensor = self.vq.quantize(latents)[2][2].view(latents.shape[-2:])
        return tokens

    def decode(self, tokens: torch.Tensor) -> tuple[Pixels, list[bool]]:
        """Tokens (n, h, w) to uint8 pixels (n, height, width, 3), and which pictures are finite."""
        shape = (*tokens.shape, self.vq.config.latent_channels)
        image = self.vq.decode(tokens, force_not_quantize=True, shape=shape, return_dict=False)[0]
        centred = image.permute(0, 2, 3, 1).float() * 255 - 127.5
        finite = torch.isfinite(centred.sum((1, 2, 3)))
        return to_bytes(centred).cpu().numpy(), finite.tolist()
