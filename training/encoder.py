"""The VAE's encoder, taught the fixed linear latents, so that image-to-image works.

The generator was trained on linear latents that need no network. `AutoencoderTiny` has one all the same: a chain of
3x3 convolutions, which here learns to give the same numbers. Only low components carry over exactly, and they are
what image-to-image needs.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F

from training import decoder
from training.decoder import Crops
from training.latents import Composer, Encoder
from training.optim import Clock, Muon, cosine, save_atomically
from training.paths import WORK

CHECKPOINT = WORK / "vae_encoder.pt"


def train(
    minutes: float,
    batch: int = 8,
    edge: int = 192,
    seed: int = 3,
    path: Path = CHECKPOINT,
    composer: Composer | None = None,
    linear: Encoder | None = None,
) -> float:
    """Train for `minutes`; the last running correlation-like score, 1 - error / variance, of the latents."""
    torch.manual_seed(seed)
    crops = Crops(composer or Composer(), linear or Encoder.load(), edge, seed)
    vae = decoder.build()
    optimiser = Muon(vae.encoder.named_parameters(), muon_rate=3e-3, adam_rate=2e-3)
    clock, step, running, fraction = Clock(minutes), 0, math.nan, 0.0
    while fraction < 1:
        latents, pictures = crops.batch(batch)
        with torch.autocast("cpu", torch.bfloat16):
            made = vae.encoder(pictures)
        # Every channel counts by its own spread, so that the weak ones are learnt too.
        spread = latents.std((0, 2, 3), keepdim=True) + 0.02
        loss = F.mse_loss(made.float() / spread, latents / spread)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(optimiser.parameters, 1.0)
        optimiser.step(cosine(fraction, step))
        step += 1
        now = 1 - float(F.mse_loss(made.detach().float(), latents) / latents.var())
        running = now if math.isnan(running) else 0.97 * running + 0.03 * now
        fraction = clock.tick()
        if step % 50 == 0:
            print(
                f"encoder {fraction:6.1%} step {step} explained {running:.4f} loss {loss.item():.4f}",
                flush=True,
            )
    save_atomically({"weights": vae.encoder.state_dict(), "explained": running}, path)
    return running
