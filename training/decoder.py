"""The decoder: from 24x32x32 linear latents back to a 512x512 picture, crisp. Trained alone on true renders.

An `AutoencoderTiny` of width 32 with its blocks at 32, 64 and 128 pixels. After its last block come only nearest
upsampling and 3x3 convolutions without an activation between them: one linear map, which a server may
compose into a
single small convolution and a pixel shuffle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from training import loop
from training.latents import CHANNELS, EDGE, PALETTE, PATCH, Composer, Encoder, Scene, flatten, random_scene
from training.optim import Muon, adopt
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

    def __init__(self, composer: Composer, encoder: Encoder, edge: int, device: str = "cpu") -> None:
        """`edge` in pixels, a multiple of 16; all is put together on `device`."""
        self.composer, self.encoder, self.edge, self.device = composer, encoder.to(device), edge, device

    def scene(self, rng: np.random.Generator) -> tuple[Scene, Tensor]:
        """A scene and its background (3,): a named colour, three times in four, or any."""
        scene = random_scene(rng, recoloured=0.3)
        colour = PALETTE[scene.background] if rng.random() < 0.75 else rng.random(3, dtype=np.float32)
        return scene, torch.from_numpy(np.asarray(colour, np.float32))

    def batch(self, size: int, rng: np.random.Generator, per_scene: int = 2) -> tuple[Tensor, Tensor]:
        """(size, 24, e/16, e/16) latents and (size, 3, e, e) pictures in -1..1; two crops of each scene."""
        crops: list[Tensor] = []
        backgrounds: list[Tensor] = []
        while len(crops) < size:
            scene, background = self.scene(rng)
            cutout = self.composer.cutout(scene, self.device)
            for _ in range(per_scene):
                # Not far off the middle: corners hold nothing but background.
                y, x = rng.integers(2, (EDGE - self.edge) // PATCH - 1, 2) * PATCH
                crops.append(cutout[y : y + self.edge, x : x + self.edge])
                backgrounds.append(background)
        pictures = flatten(torch.stack(crops), torch.stack(backgrounds).to(self.device))
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


def load(path: Path | None = None) -> AutoencoderTiny:
    """The trained autoencoder (averaged weights)."""
    vae = build()
    loop.fill(vae, path or CHECKPOINT)
    return vae


def shipped_vae() -> AutoencoderTiny:
    """The decoder that ships."""
    vae: AutoencoderTiny = AutoencoderTiny.from_pretrained(SHIPPED / "vae", torch_dtype=torch.float32)
    return vae.eval()


def latest() -> AutoencoderTiny | None:
    """The decoder to look through: the checkpoint's, else the shipped one, else none."""
    if CHECKPOINT.exists():
        return load().eval()
    return shipped_vae() if (SHIPPED / "vae" / "config.json").exists() else None


def shipped(vae: AutoencoderTiny) -> bool:
    """Load the shipped weights, if they are there and fit."""
    if not (SHIPPED / "vae" / "config.json").exists():
        return False
    saved = AutoencoderTiny.from_pretrained(SHIPPED / "vae", torch_dtype=torch.float32)
    return adopt(vae, saved)


class Sharpener(loop.Fit):
    """`loop.Learner` of the decoder."""

    def __init__(self, vae: AutoencoderTiny, crops: Crops, batch: int, rate: float = 1.0) -> None:
        """The encoder of `vae` stays as it is; `rate` is of the full learning rates."""
        vae.encoder.requires_grad_(False)
        super().__init__(vae, muon(vae.decoder, rate))
        self.crops, self.batch = crops, batch
        self.decode = vae.decoder if vae.device.type == "cpu" else torch.compile(vae.decoder)

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`."""
        latents, true = self.crops.batch(self.batch, rng)
        noisy = latents + 0.04 * torch.rand_like(latents[:, :1, :1, :1]) * torch.randn_like(latents)
        with torch.autocast(latents.device.type, torch.bfloat16):
            made = self.decode(noisy.contiguous(memory_format=torch.channels_last))
        self.learn(picture_loss(made.float(), true, early=fraction < 0.08), index, fraction)
        return {"psnr": float(10 * torch.log10(4 / F.mse_loss(made.detach().float(), true)))}


def muon(decoder: nn.Module, rate: float = 1.0) -> Muon:
    """The decoder's optimiser at `rate` of its full learning rates."""
    return Muon(decoder.named_parameters(), muon_rate=4e-3 * rate, adam_rate=1.5e-3 * rate)


def train(
    minutes: float = 30,
    steps: int | None = None,
    batch: int | None = None,
    edge: int = 160,
    seed: int = 0,
    path: Path = CHECKPOINT,
    resume: bool = True,
    device: str = "cpu",
    composer: Composer | None = None,
    encoder: Encoder | None = None,
) -> None:
    """Train for `steps`, or as many as `minutes` hold (`loop.budget`), on crops of `edge` pixels.

    Goes on from the checkpoint at `path`; without one, from the shipped weights at a third of the learning rates.
    """
    torch.manual_seed(seed)
    vae = build()
    rate = 0.35 if resume and shipped(vae) else 1.0
    crops = Crops(composer or Composer(), encoder or Encoder.load(), edge, device)
    learner = Sharpener(vae.to(device), crops, batch or (8 if device == "cpu" else 64), rate)
    loop.train(learner, path, steps, minutes, seed, resume, device)
