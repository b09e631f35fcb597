"""The last stage of drawing: generator and decoder together, on pixels, through crops.

Trained apart, the decoder expects exact latents and the generator minds errors that nobody sees. Here the
generator's own latents are decoded and compared with the true picture, and both learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from training import decoder, generator, loop
from training.batches import Batches
from training.data import SMALL, load_art
from training.decoder import SCALING, picture_loss
from training.generator import Painter
from training.latents import PATCH, PLACED, Composer, Encoder, grounds, washes
from training.paths import WORK

CHECKPOINT = WORK / "sharp.pt"
CROP = 12
"""Edge of the decoded crops in latent pixels."""


def crops(
    latents: Tensor, cutouts: Tensor, backgrounds: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One crop of each picture: latents (B, 24, 12, 12) and true pixels (B, 3, 192, 192).

    `cutouts` are (B, 512, 512, 4) bytes, `backgrounds` (B, 3, 32, 32) in 0..1, even within a patch.
    """
    places = rng.integers(1, latents.shape[-1] - CROP, (len(latents), 2)).tolist()
    cut, true = [], []
    for z, thing, background, (y, x) in zip(latents, cutouts, backgrounds, places, strict=True):
        cell = slice(y, y + CROP), slice(x, x + CROP)
        pixel = slice(y * PATCH, (y + CROP) * PATCH), slice(x * PATCH, (x + CROP) * PATCH)
        cut.append(z[:, *cell])
        part = thing[pixel].permute(2, 0, 1).float() / 255
        behind = background[:, *cell].repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
        true.append(2 * (part[:3] + (1 - part[3:]) * behind) - 1)
    return torch.stack(cut).contiguous(memory_format=torch.channels_last), torch.stack(true)


def current(path: Path | None = None, sources: Sequence[Path] | None = None) -> bool:
    """Whether the checkpoint was made of its sources as they are: with a generator trained further, begin anew."""
    path, sources = path or CHECKPOINT, sources or (generator.CHECKPOINT, decoder.CHECKPOINT)
    newest = max((source.stat().st_mtime for source in sources if source.exists()), default=0.0)
    return path.exists() and path.stat().st_mtime >= newest


class Both:
    """`loop.Learner` of the generator and the decoder, together."""

    def __init__(
        self, unet: UNet2DConditionModel, vae: AutoencoderTiny, batches: Batches, batch: int, rate: float
    ) -> None:
        """Both are trained in place, at `rate` of their full learning rates."""
        vae.encoder.requires_grad_(False)
        self.painter = Painter(unet, batches, batch, rate, later=0.2)
        self.decoder, self.vae = loop.Fit(vae, decoder.muon(vae.decoder, rate)), vae

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`."""
        batches = self.painter.batches
        drawn, targets = batches.draw(self.painter.batch, rng)
        corners = zip(targets, drawn.crops.tolist(), strict=True)
        cutouts = torch.stack(
            [batches.composer.target(target, crop, batches.device) for target, crop in corners]
        )
        backgrounds = washes(drawn.noise, grounds(targets).to(batches.device))
        made = self.painter.predict(drawn, *self.painter.noisy(drawn, rng))
        latent, _ = self.painter.distance(made, drawn.x0)
        cut, true = crops(made / SCALING, cutouts, backgrounds, rng)
        with torch.autocast(cut.device.type, torch.bfloat16):
            pixels = self.vae.decoder(cut)
        torch.autograd.backward(latent + 2 * picture_loss(pixels.float(), true))
        for fit in (self.painter, self.decoder):
            fit.stride(index, fraction)
        error = F.mse_loss(pixels.detach().float(), true)
        return {"latent": latent.item(), "psnr": float(10 * torch.log10(4 / error))}

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        return {"generator": self.painter.state_dict(), "decoder": self.decoder.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        self.painter.load_state_dict(state["generator"])
        self.decoder.load_state_dict(state["decoder"])

    def sheet(self) -> Image.Image | None:
        """See `loop.Learner`."""
        return self.painter.sheet()


def train(
    minutes: float = 15,
    steps: int | None = None,
    batch: int | None = None,
    seed: int = 77,
    rate: float = 0.12,
    device: str = "cpu",
    resume: bool = True,
    composer: Composer | None = None,
    encoder: Encoder | None = None,
    sources: tuple[Path, Path] = (generator.CHECKPOINT, decoder.CHECKPOINT),
    path: Path = CHECKPOINT,
) -> None:
    """Fine-tune both for `steps`, or as many as `minutes` hold, at `rate` of their learning rates."""
    torch.manual_seed(seed)
    unet, vae = generator.load(sources[0]).train().to(device), decoder.load(sources[1]).to(device)
    art = composer or Composer(*load_art((PLACED, SMALL)))
    batches = Batches(art, encoder or Encoder.load(), device=device)
    both = Both(unet, vae, batches, batch or (8 if device == "cpu" else 128), rate)
    loop.train(both, path, steps, minutes, seed, resume and current(path, sources), device)


def load(path: Path | None = None) -> tuple[UNet2DConditionModel, AutoencoderTiny]:
    """Both, as trained (averaged weights)."""
    path = path or CHECKPOINT
    state = loop.checkpoint(path)["learner"]
    unet, vae = generator.build(), decoder.build()
    with loop.fitting(path):
        unet.load_state_dict(state["generator"]["weights"])
        vae.load_state_dict(state["decoder"]["weights"])
    return unet, vae
