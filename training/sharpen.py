"""The last stage: generator and decoder together, on pixels, through crops; and the encoder for image-to-image.

Trained apart, the decoder expects exact latents and the generator minds errors that nobody sees. Here the
generator's
own latents are decoded and compared with the true picture, and both learn.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import decoder, generator
from training.decoder import SCALING, picture_loss
from training.generator import LATER, Batches, Process, predict
from training.latents import PALETTE, PATCH, Composer, Encoder, washes
from training.optim import Average, Clock, Muon, cosine, save_atomically
from training.paths import WORK

GENERATOR, DECODER = WORK / "generator_sharp.pt", WORK / "decoder_sharp.pt"
CROP = 12
"""Edge of the decoded crops in latent pixels."""


def crops(
    latents: Tensor, cutouts: Tensor, backgrounds: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One crop of each picture: latents (B, 24, 12, 12) and true pixels (B, 3, 192, 192).

    `cutouts` are (B, 512, 512, 4) bytes, `backgrounds` (B, 3, 32, 32) in 0..1, even within a patch.
    """
    places = torch.randint(1, latents.shape[-1] - CROP, (len(latents), 2), generator=rng).tolist()
    cut, true = [], []
    for z, thing, background, (y, x) in zip(latents, cutouts, backgrounds, places, strict=True):
        cell = slice(y, y + CROP), slice(x, x + CROP)
        pixel = slice(y * PATCH, (y + CROP) * PATCH), slice(x * PATCH, (x + CROP) * PATCH)
        cut.append(z[:, *cell])
        part = thing[pixel].permute(2, 0, 1).float() / 255
        behind = background[:, *cell].repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
        true.append(2 * (part[:3] + (1 - part[3:]) * behind) - 1)
    return torch.stack(cut).contiguous(memory_format=torch.channels_last), torch.stack(true)


def train(
    minutes: float,
    batch: int = 8,
    seed: int = 77,
    later: float = 0.2,
    rate: float = 0.12,
    device: str = "cpu",
    composer: Composer | None = None,
    encoder: Encoder | None = None,
    sources: tuple[Path, Path] = (generator.CHECKPOINT, decoder.CHECKPOINT),
    results: tuple[Path, Path] = (GENERATOR, DECODER),
) -> float:
    """Fine-tune both for `minutes` at `rate` of their learning rates; the last running PSNR in dB at one step."""
    torch.manual_seed(seed)
    unet, vae, process = (
        generator.load(sources[0]).train().to(device),
        decoder.load(sources[1]).to(device),
        Process(),
    )
    vae.encoder.requires_grad_(False)
    first_optimiser = generator.muon(unet, rate)
    second = Muon(vae.decoder.named_parameters(), muon_rate=4e-3 * rate, adam_rate=1.5e-3 * rate)
    averages = Average(first_optimiser.parameters), Average(second.parameters)
    batches = Batches(composer or Composer(), encoder or Encoder.load(), seed)
    rng = torch.Generator().manual_seed(seed)
    clock, step, running, saved, fraction = Clock(minutes), 0, math.nan, 0.0, 0.0
    while fraction < 1:
        drawn, targets = batches.draw(batch)
        noise, code, states, corners, x0 = drawn.to(device)
        backgrounds = washes(
            drawn.noise, torch.from_numpy(PALETTE[[target.background for target in targets]])
        )
        composed = map(batches.composer.target, targets, drawn.crops.tolist())
        cutouts = torch.from_numpy(np.stack(list(composed)))
        first = batches.rng.random() >= later
        t = 999 if first else int(batches.rng.choice(LATER))
        x, sigma = process.start(noise) if first else process.later(x0, noise, t)
        made = predict(unet, x, sigma, t, code, states, corners)
        latent = F.l1_loss(made, x0) + 0.5 * F.mse_loss(made, x0)
        cut, true = crops(made / SCALING, cutouts, backgrounds, rng)
        true = true.to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            pixels = vae.decoder(cut)
        loss = latent + 2 * picture_loss(pixels.float(), true)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(first_optimiser.parameters, 1.0)
        torch.nn.utils.clip_grad_norm_(second.parameters, 1.0)
        factor = cosine(fraction, step)
        first_optimiser.step(factor)
        second.step(factor)
        for average in averages:
            average.update()
        step += 1
        if first:
            now = 10 * math.log10(4 / F.mse_loss(pixels.detach().float(), true).item())
            running = now if math.isnan(running) else 0.97 * running + 0.03 * now
        fraction = clock.tick()
        if step % 25 == 0:
            print(
                f"sharpen {fraction:6.1%} step {step} psnr {running:.2f} dB latent {latent.item():.4f} "
                f"{step * batch / max(clock.active, 1):.1f} pictures/s",
                flush=True,
            )
        if clock.active - saved > 150 or fraction >= 1:
            saved = clock.active
            for average in averages:
                average.swap()
            save_atomically(
                {
                    "weights": {k: v.clone() for k, v in unet.state_dict().items()},
                    "widths": list(generator.WIDTHS),
                    "psnr": running,
                },
                results[0],
            )
            save_atomically(
                {
                    "weights": {k: v.clone() for k, v in vae.state_dict().items()},
                    "blocks": list(decoder.BLOCKS),
                    "psnr": running,
                },
                results[1],
            )
            for average in averages:
                average.swap()
    return running
