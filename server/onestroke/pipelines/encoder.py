"""Pictures to latents over diffusers' autoencoders: where image-to-image starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from onestroke.pipelines.cache import ByteCache
from onestroke.pipelines.decoder import unscaling

CACHE_BYTES = 64 << 20
"""A 512x512 picture takes 128 KiB, so a few hundred are kept."""


class Posterior(NamedTuple):
    """Scaled latents (channels, h, w), fp32 on the device; `std` is None where nothing is drawn."""

    mean: torch.Tensor
    std: torch.Tensor | None

    @property
    def nbytes(self) -> int:
        return self.mean.nbytes + (0 if self.std is None else self.std.nbytes)

    def sample(self, noise: torch.Tensor | None) -> torch.Tensor:
        return self.mean if self.std is None or noise is None else self.mean + self.std * noise


class PictureEncoder:
    """The VAE's encoder, one picture at a time, so that latents are a function of the picture alone.

    It runs in fp32 where the VAE says `force_upcast` (SDXL's overflows in fp16), as diffusers' pipelines run it.
    Its own thread is the device's; `cache` holds what is known, by digest.
    """

    def __init__(
        self, vae: Any, *, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format
    ) -> None:
        self.vae = vae
        self.device = device
        self.dtype = torch.float32 if getattr(vae.config, "force_upcast", False) else dtype
        self.memory_format = memory_format
        self.cache: ByteCache[Posterior] = ByteCache(CACHE_BYTES)
        self.encoded = 0
        self._scale, self._shift = unscaling(vae, device)
        for part in (vae.encoder, getattr(vae, "quant_conv", None)):
            if part is not None:
                part.to(self.dtype)

    @property
    def draws(self) -> bool:
        """Whether latents are drawn from what it says (AutoencoderKL): that noise comes before the start's."""
        return hasattr(self.vae, "quant_conv")

    def __call__(self, digest: str, read: Callable[[], torch.Tensor]) -> Posterior:
        """The latents of the picture with this digest; `read` gives it where they are not known.

        It is uint8, (height, width, 3), on the host.
        """
        if found := self.cache.get(digest):
            return found
        made = self._encode(read())
        self.cache.put(digest, made)
        self.encoded += 1
        return made

    @torch.inference_mode()
    def _encode(self, pixels: torch.Tensor) -> Posterior:
        centred = pixels.to(self.device).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        out = self.vae.encode(centred.to(self.dtype).contiguous(memory_format=self.memory_format))
        if not self.draws:
            return Posterior((out.latents[0].float() - self._shift) / self._scale, None)
        spread = out.latent_dist
        return Posterior(
            (spread.mean[0].float() - self._shift) / self._scale, spread.std[0].float() / self._scale
        )
