"""Latents to pixels over diffusers' autoencoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from onestroke.pipelines.graphs import Graphed, Recorder
from onestroke.pipelines.images import Pixels
from onestroke.pipelines.tiny_decoder import rewrite
from onestroke.pipelines.transfer import Download, Transfers

BATCHES = {"cpu": (1, 2, 4)}
"""Sub-batches that are tried, by device."""
ELSEWHERE = (1, 2, 4, 8)


class Decoding(NamedTuple):
    """A sub-batch on its way."""

    download: Download

    def wait(self) -> tuple[Pixels, list[bool]]:
        """uint8 pixels (n, height, width, 3) on the host, and which pictures are finite."""
        pixels, finite = self.download.wait()
        return pixels.numpy(), finite.tolist()


class Decoder:
    """The VAE's decoder with everything around it: unscaling before, eight-bit pixels after.

    `dtype` is the one that the decoder runs in (see `safe_dtype`). AutoencoderTiny's decoders are rewritten
    (see tiny_decoder); all others run as diffusers runs them. `batch` is the sub-batch that the pipeline makes.
    """

    def __init__(
        self,
        vae: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.channels_last,
        recorder: Recorder | None = None,
    ) -> None:
        self.vae = vae
        self.device = device
        self.dtype = dtype
        self.memory_format = memory_format
        self.fast = rewrite(vae)
        self.batches = BATCHES.get(device.type, ELSEWHERE)
        self.batch = 1
        self.graphed = Graphed(self._pictures, buckets=self.batches, device=device, recorder=recorder)
        self._transfers = Transfers(device)
        self._scale, self._shift = unscaling(vae, device)

    @property
    def is_tiny(self) -> bool:
        return self.fast is not None

    @property
    def network(self) -> Any:
        """The module that does the work."""
        return self.vae.decoder if self.fast is None else self.fast

    @property
    def compiles(self) -> bool:
        """Whether torch.compile may have it: on CPUs the tiny decoder's layers are packed already."""
        return self.fast is None or self.device.type != "cpu"

    def start(self, latents: Sequence[torch.Tensor]) -> Decoding:
        """Begin to decode fp32 latents (channels, h, w) of one sub-batch; at once where nothing runs aside."""
        return Decoding(self._transfers.down(*self.graphed(list(latents))))

    def __call__(self, latents: Sequence[torch.Tensor]) -> tuple[Pixels, list[bool]]:
        """The pictures of one sub-batch; see `Decoding.wait`."""
        return self.start(latents).wait()

    def _pictures(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        unscaled = latents * self._scale + self._shift
        centred = self._centred(unscaled)
        finite = torch.isfinite(centred.sum((1, 2, 3), dtype=torch.float32))
        return to_bytes(centred), finite

    def _centred(self, latents: torch.Tensor) -> torch.Tensor:
        """Unscaled fp32 latents to (n, height, width, 3) in -127.5 to 127.5, not clamped yet."""
        if self.fast is not None:
            pixels: torch.Tensor = self.fast(latents)
            return pixels
        latents = latents.to(self.dtype).contiguous(memory_format=self.memory_format)
        image: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
        return image.permute(0, 2, 3, 1).float() * 127.5


def unscaling(vae: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The VAE's own latents are scale * latents + shift, each (channels or 1, 1, 1)."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    scale = torch.ones(1, 1, 1, device=device) / vae.config.scaling_factor
    if mean is None or std is None:
        return scale, torch.zeros(1, 1, 1, device=device)
    return (
        scale * torch.tensor(std, device=device).view(-1, 1, 1),
        torch.tensor(mean, device=device).view(-1, 1, 1),
    )


def to_bytes(centred: torch.Tensor) -> torch.Tensor:
    """Centred pixels (n, height, width, 3), -127.5 to 127.5, as contiguous uint8, rounded as in diffusers."""
    return centred.float().add(127.5).round_().clamp_(0, 255).to(torch.uint8).contiguous()


def safe_dtype(vae: Any, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to decode in: KL decoders that say `force_upcast` (SDXL's) overflow in fp16.

    bf16 has fp32's range, so it serves where the device computes in it; else fp32.
    """
    if dtype is not torch.float16 or not getattr(vae.config, "force_upcast", False):
        return dtype
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32
