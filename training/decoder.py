"""The decoder: from 24x32x32 linear latents back to a 512x512 picture, crisp. Trained alone on true renders.

An `AutoencoderTiny` of width 32 with its blocks at 32, 64 and 128 pixels. After its last block come only nearest
upsampling and 3x3 convolutions without an activation between them: one linear map, which a server may
compose into a
single small convolution and a pixel shuffle.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from training.data import Bytes
from training.latents import CHANNELS, EDGE, PALETTE, PATCH, Composer, Encoder, Scene, flatten, random_scene
from training.optim import Average, Clock, Muon, cosine, same_shapes, save_atomically
from training.paths import SHIPPED, WORK

SCALING = 2.0
"""The VAE's `scaling_factor`: the generator's latents are the linear ones times this, near unit variance."""

BLOCKS = (4, 4, 3, 0, 0)
"""Residual blocks at 32, 64, 128, 256 and 512 pixels."""

CHECKPOINT = WORK / "decoder.pt"


def build(width: int = 32, blocks: tuple[int, ...] = BLOCKS) -> AutoencoderTiny:
    """An untrained autoencoder with gains near one (diffusers' default initialisation makes the signal vanish)."""
    vae = AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(width,) * 5,
        decoder_block_out_channels=(width,) * 5,
        num_encoder_blocks=(0, 1, 1, 1, 1),
        num_decoder_blocks=blocks,
        scaling_factor=SCALING,
    )
    inner: set[nn.Module] = set()
    for block in vae.modules():
        if isinstance(block, AutoencoderTinyBlock):
            convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
            inner.update(convolutions)
            for conv in convolutions:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            convolutions[-1].weight.data.mul_(0.2)  # near the identity at first
    for conv in vae.modules():
        if isinstance(conv, nn.Conv2d):
            if conv not in inner:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
                conv.weight.data.mul_(1.2)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
    with torch.no_grad():
        out = vae.decoder.layers(torch.randn(1, CHANNELS, 8, 8) * 0.3)
        vae.decoder.layers[-1].weight.div_(out.std() / 0.25)
        vae.decoder.layers[-1].bias.fill_(0.5)
    return vae.to(memory_format=torch.channels_last)


class Crops:
    """Random square crops of random scenes, as (latents, pictures)."""

    def __init__(self, composer: Composer, encoder: Encoder, edge: int, seed: int) -> None:
        """`edge` in pixels, a multiple of 16."""
        self.composer, self.encoder, self.edge = composer, encoder, edge
        self.rng = np.random.default_rng(seed)

    def scene(self) -> tuple[Scene, Tensor]:
        """A scene and its background (3,): a named colour, three times in four, or any."""
        scene = random_scene(self.rng, recoloured=0.3)
        colour = (
            PALETTE[scene.background] if self.rng.random() < 0.75 else self.rng.random(3, dtype=np.float32)
        )
        return scene, torch.from_numpy(np.asarray(colour, np.float32))

    def batch(self, size: int, per_scene: int = 2) -> tuple[Tensor, Tensor]:
        """(size, 24, e/16, e/16) latents and (size, 3, e, e) pictures in -1..1; two crops of each scene."""
        crops: list[Bytes] = []
        backgrounds: list[Tensor] = []
        while len(crops) < size:
            scene, background = self.scene()
            cutout = self.composer.cutout(scene)
            for _ in range(per_scene):
                # Not far off the middle: corners hold nothing but background.
                y, x = self.rng.integers(2, (EDGE - self.edge) // PATCH - 1, 2) * PATCH
                crops.append(cutout[y : y + self.edge, x : x + self.edge])
                backgrounds.append(background)
        pictures = flatten(torch.from_numpy(np.stack(crops)), torch.stack(backgrounds))
        return self.encoder.pictures(pictures), pictures.contiguous(memory_format=torch.channels_last)


def edges(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right and lower neighbour."""
    return pictures[..., 1:] - pictures[..., :-1], pictures[..., 1:, :] - pictures[..., :-1, :]


def picture_loss(made: Tensor, true: Tensor, early: bool = False) -> Tensor:
    """Distance of pictures (B, 3, h, w): squared first, then absolute with edges and local averages."""
    squared = F.mse_loss(made, true)
    absolute = F.l1_loss(made, true)
    if early:
        return 2 * squared + 0.3 * absolute
    sharp = sum(
        ((F.l1_loss(a, b)) for a, b in zip(edges(made), edges(true), strict=True)), made.new_zeros(())
    )
    average = F.l1_loss(F.avg_pool2d(made, 8), F.avg_pool2d(true, 8))
    return absolute + squared + 0.5 * sharp + 0.3 * average


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Per-picture PSNR in dB of pictures in -1..1, shape (B,)."""
    return 10 * torch.log10(4 / (made.clamp(-1, 1) - true).pow(2).flatten(1).mean(1).clamp(min=1e-9))


def load(path: Path | None = None) -> AutoencoderTiny:
    """The trained autoencoder (averaged weights)."""
    state = torch.load(path or CHECKPOINT, map_location="cpu", weights_only=True)
    vae = build(blocks=tuple(state["blocks"]))
    vae.load_state_dict(state["weights"])
    return vae


def shipped_vae() -> AutoencoderTiny:
    """The decoder that ships."""
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(SHIPPED / "vae", torch_dtype=torch.float32)
    return vae.eval()


def shipped(vae: AutoencoderTiny) -> bool:
    """Load the shipped weights, if they are there and fit."""
    if not (SHIPPED / "vae" / "config.json").exists():
        return False
    saved = AutoencoderTiny.from_pretrained(SHIPPED / "vae", torch_dtype=torch.float32)
    if not same_shapes(saved, vae):
        return False
    vae.load_state_dict(saved.state_dict())
    print("starting from the shipped weights", flush=True)
    return True


def train(
    minutes: float,
    batch: int = 8,
    edge: int = 160,
    seed: int = 0,
    path: Path = CHECKPOINT,
    resume: bool = True,
    device: str = "cpu",
    composer: Composer | None = None,
    encoder: Encoder | None = None,
) -> float:
    """Train for `minutes` of active time; the last running PSNR in dB on fresh training crops.

    Goes on from the checkpoint at `path`; without one, from the shipped weights at a third of the learning rate.
    """
    torch.manual_seed(seed)
    crops = Crops(composer or Composer(), encoder or Encoder.load(), edge, seed)
    vae, rate = build(), 1.0
    if resume and not path.exists() and shipped(vae):
        rate = 0.35
    vae.to(device)
    for parameter in vae.encoder.parameters():
        parameter.requires_grad_(False)
    parameters = list(vae.decoder.named_parameters())
    optimiser = Muon(parameters, muon_rate=4e-3 * rate, adam_rate=1.5e-3 * rate, weight_decay=0.01)
    clock, step = Clock(minutes), 0
    if resume and path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if tuple(state["blocks"]) == BLOCKS and "optimiser" in state:
            vae.load_state_dict(state["live"])
            optimiser.load_state_dict(state["optimiser"])
            clock, step = Clock(minutes, state["active"]), state["step"]
            print(f"resumed at step {step}", flush=True)
    average = Average([p for _, p in parameters])
    if step:
        vae.load_state_dict(state["weights"])
        average = Average([p for _, p in parameters])
        vae.load_state_dict(state["live"])
        average.steps = step
    running, saved, fraction = math.nan, 0.0, clock.active / (60 * minutes)
    while fraction < 1:
        latents, true = (part.to(device) for part in crops.batch(batch))
        noisy = latents + 0.04 * torch.rand(len(latents), 1, 1, 1, device=device) * torch.randn_like(latents)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            made = vae.decoder(noisy.contiguous(memory_format=torch.channels_last))
        made = made.float()
        loss = picture_loss(made, true, early=fraction < 0.08)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([p for _, p in parameters], 1.0)
        optimiser.step(cosine(fraction, step))
        average.update()
        step += 1
        now = float(10 * math.log10(4 / F.mse_loss(made.detach(), true).item()))
        running = now if math.isnan(running) else 0.98 * running + 0.02 * now
        fraction = clock.tick()
        if step % 100 == 0:
            print(
                f"decoder {fraction:6.1%} step {step} psnr {running:.2f} dB loss {loss.item():.4f} "
                f"{step * batch / max(clock.active, 1):.1f} crops/s",
                flush=True,
            )
        if clock.active - saved > 120 or fraction >= 1:
            saved = clock.active
            live = {k: v.clone() for k, v in vae.state_dict().items()}
            average.swap()
            save_atomically(
                {
                    "weights": {k: v.clone() for k, v in vae.state_dict().items()},
                    "live": live,
                    "blocks": list(BLOCKS),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                    "active": clock.active,
                    "psnr": running,
                },
                path,
            )
            average.swap()
    return running
