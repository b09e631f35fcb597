"""Image tokens: diffusers' VQModel in aMUSEd's layout, small; a token stands for 8x8 pixels.

One model serves both sizes, as aMUSEd's does: 8x8 tokens of a small picture, 16x16 of a large one. It begins as a
plain autoencoder; then the codebook is laid over what the encoder says (k-means) and from there follows it as a
moving average (van den Oord et al., arXiv 1711.00937, appendix A.1). An entry that nothing is near to is put where
something is, so that none is dead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import VQModel
from PIL import Image
from torch import Tensor, nn

from training import loop
from training.decoder import picture_loss
from training.muse.pictures import LARGE, SMALL, Pictures, sample, to_bytes
from training.optim import Muon
from training.paths import WORK

CHECKPOINT = WORK / "muse" / "codec.pt"
CODEBOOK = 256
WIDTHS = (8, 16, 32, 64)
STEPS, BATCH = 1500, 16
FREE = 0.15
"""The part of the run before there are tokens."""
COMMITMENT = 0.25
DECAY, DEAD = 0.97, 0.05
"""Of the codebook's moving averages; an entry that is chosen less often than DEAD times a step is moved."""


class Norm(nn.GroupNorm):
    """The same; torch's own is slow going backwards through channels_last on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """See nn.GroupNorm."""
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def build(widths: tuple[int, ...] = WIDTHS, codebook: int = CODEBOOK) -> VQModel:
    """The untrained model. Norms are over all channels at once: in groups of few they take away a flat colour."""
    torch.manual_seed(0)
    vq = VQModel(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=32,
        num_vq_embeddings=codebook,
        norm_num_groups=1,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        sample_size=SMALL,
    )
    for module in vq.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = Norm
    nn.init.constant_(vq.decoder.conv_out.bias, 0.5)
    return vq.to(memory_format=torch.channels_last)


class Codebook:
    """What the quantizer's entries follow: how often each is chosen, and the sum of what chose it."""

    def __init__(self, entries: Tensor) -> None:
        """`entries` (n, channels) are changed in place."""
        self.entries = entries
        self.counts = torch.ones(len(entries), device=entries.device)
        self.sums = entries.clone()

    def start(self, latents: Tensor, rounds: int = 8) -> None:
        """k-means over latents (m, channels), m being several times the number of entries."""
        chosen = torch.randperm(len(latents), device=latents.device)[: len(self.entries)]
        self.entries.copy_(latents[chosen])
        for _ in range(rounds):
            counts, sums = self._chosen(latents, nearest(latents, self.entries))
            missed = counts == 0
            self.entries.copy_(sums / counts.clamp(min=1)[:, None])
            self.entries[missed] = latents[
                torch.randint(len(latents), (int(missed.sum()),), device=latents.device)
            ]
        self.counts.copy_(counts * len(self.entries) / len(latents))
        self.sums.copy_(self.entries * self.counts[:, None])

    def follow(self, latents: Tensor, tokens: Tensor) -> int:
        """Move towards latents (m, channels) that chose `tokens` (m,); how many dead entries were moved."""
        counts, sums = self._chosen(latents, tokens)
        self.counts.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        dead = self.counts < DEAD
        moved = int(dead.sum())
        if moved:
            self.sums[dead] = latents[torch.randint(len(latents), (moved,), device=latents.device)]
            self.counts[dead] = 1.0
        self.entries.copy_(self.sums / self.counts[:, None])
        return moved

    def _chosen(self, latents: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        counts = torch.bincount(tokens, minlength=len(self.entries)).float()
        return counts, torch.zeros_like(self.entries).index_add_(0, tokens, latents)


def nearest(latents: Tensor, entries: Tensor) -> Tensor:
    """The nearest entry (m,) to each of latents (m, channels)."""
    return torch.cdist(latents, entries).argmin(1)


def quantized(latents: Tensor, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (B, c, h, w) as entries, gradients going straight through; the tokens (m,); flat latents (m, c)."""
    flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
    with torch.no_grad():
        tokens = nearest(flat, entries)
        chosen = entries[tokens].view(*latents.shape[:1], *latents.shape[2:], -1).permute(0, 3, 1, 2)
    return latents + (chosen - latents).detach(), tokens, flat.detach()


class Learner(loop.Fit):
    """`loop.Learner` of the VQ model: a batch of small pictures and a quarter of one of large ones, in turns."""

    def __init__(self, vq: VQModel, pictures: Pictures, batch: int = BATCH, device: str = "cpu") -> None:
        """`vq` is trained in place, on `device`."""
        self.vq, self.pictures, self.batch, self.device = vq.to(device).train(), pictures, batch, device
        entries: nn.Parameter = vq.quantize.embedding.weight
        entries.requires_grad_(False)
        self.codebook = Codebook(entries.data)
        named = [(name, p) for name, p in vq.named_parameters() if p.requires_grad]
        exclude = ("conv_in", "conv_out", "quant_conv")
        super().__init__(vq, Muon(named, 1e-2, 4e-3, exclude=exclude), half_life=80, warmup=15)
        self.begun = False

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`."""
        large = index % 2 == 1
        views = [sample(rng) for _ in range(max(1, self.batch // 4) if large else self.batch)]
        true = self.pictures.paint(views, LARGE if large else SMALL).to(self.device)
        kind = torch.device(self.device).type
        if not self.begun and fraction >= FREE:
            self._lay(rng)
        with torch.autocast(kind, torch.bfloat16):
            latents = self.vq.encode(true.contiguous(memory_format=torch.channels_last)).latents
        latents = latents.float()
        given, moved, commitment = latents, 0, latents.new_zeros(())
        if self.begun:
            given, tokens, flat = quantized(latents, self.codebook.entries)
            commitment = F.mse_loss(latents, given.detach())
            moved = self.codebook.follow(flat, tokens)
        with torch.autocast(kind, torch.bfloat16):
            made = self.vq.decoder(self.vq.post_quant_conv(given))
        error = picture_loss(2 * made.float() - 1, 2 * true - 1, early=fraction < FREE / 2)
        self.learn(error + COMMITMENT * commitment, index, fraction)
        distance = -10 * float(torch.log10(F.mse_loss(made.detach().float(), true)))
        return {
            "error": error.item(),
            "psnr": distance,
            "commitment": commitment.item(),
            "moved": float(moved),
        }

    @torch.no_grad()
    def _lay(self, rng: np.random.Generator) -> None:
        """Put the codebook where the encoder's latents are."""
        found = []
        for edge, count in ((SMALL, 4 * self.batch), (LARGE, self.batch)):
            for _ in range(4):
                true = self.pictures.paint([sample(rng) for _ in range(count // 4 or 1)], edge).to(
                    self.device
                )
                with torch.autocast(torch.device(self.device).type, torch.bfloat16):
                    latents = self.vq.encode(true.contiguous(memory_format=torch.channels_last)).latents
                found.append(latents.float().permute(0, 2, 3, 1).flatten(0, 2))
        self.codebook.start(torch.cat(found))
        self.begun = True

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        codebook = [self.codebook.counts, self.codebook.sums]
        return {**super().state_dict(), "codebook": codebook, "begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        super().load_state_dict(state)
        for mine, saved in zip((self.codebook.counts, self.codebook.sums), state["codebook"], strict=True):
            mine.copy_(saved)
        self.begun = bool(state["begun"])

    @torch.no_grad()
    def sheet(self) -> Image.Image:
        """Pictures above what comes back: sixteen small ones, then four large ones."""
        rng = np.random.default_rng(0)
        self.average.swap()
        self.vq.eval()
        rows = []
        for edge, count in ((SMALL, 8), (SMALL, 8), (LARGE, 4)):
            true = self.pictures.paint([sample(rng) for _ in range(count)], edge).to(self.device)
            made = (
                decode(self.vq, encode(self.vq, true))
                if self.begun
                else self.vq.decoder(self.vq.post_quant_conv(self.vq.encode(true).latents))
            )
            rows += [np.concatenate(list(to_bytes(each.cpu())), 1) for each in (true, made)]
        self.vq.train()
        self.average.swap()
        return Image.fromarray(np.concatenate(rows))


@torch.no_grad()
def encode(vq: VQModel, pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 to tokens (B, H/8, W/8)."""
    latents = vq.encode(pictures.contiguous(memory_format=torch.channels_last)).latents
    return nearest(latents.permute(0, 2, 3, 1).flatten(0, 2), vq.quantize.embedding.weight).view(
        len(latents), *latents.shape[2:]
    )


@torch.no_grad()
def decode(vq: VQModel, tokens: Tensor) -> Tensor:
    """Tokens (B, h, w) to pictures (B, 3, H, W) in about 0..1."""
    made: Tensor = vq.decode(
        tokens, force_not_quantize=True, shape=(*tokens.shape, vq.config.latent_channels)
    ).sample
    return made


def train(
    steps: int = STEPS,
    path: Path = CHECKPOINT,
    pictures: Pictures | None = None,
    batch: int = BATCH,
    device: str = "cpu",
) -> VQModel:
    """Train to `steps`, going on from the checkpoint at `path`; the model with averaged weights."""
    learner = Learner(build(), pictures or Pictures(), batch, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    loop.run(learner, steps, path, save_every=50, sheet_every=200)
    learner.average.swap()
    return learner.vq.eval()


def load(pictures: Pictures, path: Path | None = None) -> VQModel:
    """The trained model."""
    path = path or CHECKPOINT
    learner, state = Learner(build(), pictures), loop.checkpoint(path)["learner"]
    with loop.fitting(path):
        learner.load_state_dict(state)
    learner.average.swap()
    return learner.vq.eval()
