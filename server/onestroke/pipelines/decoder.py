"""Latents to pixels over diffusers' autoencoders."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from onestroke.pipelines.images import Pixels
from onestroke.pipelines.tiny_decoder import rewrite


class Decoder:
    """The VAE's decoder with everything around it: unscaling before, eight-bit pixels after.

    `dtype` is the one that the decoder runs in (see `safe_dtype`). AutoencoderTiny's decoders are rewritten
    (see tiny_decoder); all others run as diffusers runs them.
    """

    def __init__(self, vae: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        self.vae = vae
        self.device = device
        self.dtype = dtype
        self.fast = rewrite(vae)
        mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
        self._scale = torch.ones(1, device=device) / vae.config.scaling_factor
        self._shift = torch.zeros(1, device=device)
        if mean is not None and std is not None:
            self._scale = self._scale * torch.tensor(std, device=device)
            self._shift = torch.tensor(mean, device=device)

    def __call__(self, latents: torch.Tensor) -> tuple[Pixels, list[bool]]:
        """fp32 latents (n, channels, h, w) to uint8 pixels (n, height, width, 3), and which are finite."""
        unscaled = latents * self._scale.view(1, -1, 1, 1) + self._shift.view(1, -1, 1, 1)
        centred = self._centred(unscaled)
        finite = torch.isfinite(centred.sum((1, 2, 3), dtype=torch.float32))
        return to_pixels(centred), finite.tolist()

    def _centred(self, latents: torch.Tensor) -> torch.Tensor:
        """Unscaled fp32 latents to (n, height, width, 3) in -127.5 to 127.5, not clamped yet."""
        if self.fast is not None:
            pixels: torch.Tensor = self.fast(latents)
            return pixels
        latents = latents.to(self.dtype).contiguous(memory_format=torch.channels_last)
        image: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
        return image.permute(0, 2, 3, 1).float() * 127.5


def to_pixels(centred: torch.Tensor) -> Pixels:
    """Centred pixels (n, height, width, 3), -127.5 to 127.5, as uint8 on the CPU, rounded as in diffusers."""
    bytes_ = centred.float().add(127.5).round_().clamp_(0, 255).to(torch.uint8)
    pixels: Pixels = np.ascontiguousarray(bytes_.cpu().numpy())
    return pixels


def safe_dtype(vae: Any, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to decode in: KL decoders that say `force_upcast` (SDXL's) overflow in fp16.

    bf16 has fp32's range, so it serves where the device computes in it; else fp32.
    """
    if dtype is not torch.float16 or not getattr(vae.config, "force_upcast", False):
        return dtype
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32
