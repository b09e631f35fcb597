"""The VAE's encoder, taught the fixed linear latents, which image-to-image begins with.

The generator was trained on linear latents that need no network. `AutoencoderTiny` has one all the same: a chain of
3x3 convolutions, which here learns to give the same numbers. Only low components carry over exactly.
(The generator makes little of them: see the model card.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from training import decoder, loop
from training.decoder import Crops
from training.latents import Composer, Encoder
from training.optim import Muon
from training.paths import WORK

CHECKPOINT = WORK / "vae_encoder.pt"


class Teller(loop.Fit):
    """`loop.Learner` of the VAE's encoder."""

    def __init__(self, vae: AutoencoderTiny, crops: Crops, batch: int, rate: float = 1.0) -> None:
        """The encoder is trained in place, at `rate` of the full learning rates."""
        named = vae.encoder.named_parameters()
        super().__init__(vae.encoder, Muon(named, muon_rate=3e-3 * rate, adam_rate=2e-3 * rate))
        self.crops, self.batch = crops, batch

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`; the share of the latents' variance that it explains."""
        latents, pictures = self.crops.batch(self.batch, rng)
        with torch.autocast(latents.device.type, torch.bfloat16):
            made = self.network(pictures).float()
        # Every channel counts by its own spread, so that the weak ones are learnt too.
        spread = latents.std((0, 2, 3), keepdim=True) + 0.02
        self.learn(F.mse_loss(made / spread, latents / spread), index, fraction)
        return {"explained": 1 - float(F.mse_loss(made.detach(), latents) / latents.var())}


def train(
    minutes: float = 5,
    steps: int | None = None,
    batch: int | None = None,
    edge: int = 192,
    seed: int = 3,
    path: Path = CHECKPOINT,
    resume: bool = True,
    device: str = "cpu",
    composer: Composer | None = None,
    linear: Encoder | None = None,
) -> None:
    """Train for `steps`, or as many as `minutes` hold (`loop.budget`), on crops of `edge` pixels.

    Goes on from the checkpoint at `path`; without one, from the shipped weights at a third of the learning rates.
    """
    torch.manual_seed(seed)
    crops = Crops(composer or Composer(), linear or Encoder.load(), edge, device)
    vae = decoder.build()
    rate = 0.35 if resume and decoder.shipped(vae) else 1.0
    teller = Teller(vae.to(device), crops, batch or (8 if device == "cpu" else 64), rate)
    loop.train(teller, path, steps, minutes, seed, resume, device)
