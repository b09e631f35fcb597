"""ADD: adversarial diffusion distillation (Sauer et al., arXiv 2311.17042) in the small world.

The student starts from the teacher's weights and predicts clean latents from one of four noise levels. It learns
from two losses (equation 1): L = L_adv + 2.5 L_distill. Where ADD's discriminator looks at pictures through
DINOv2, ours looks at noised latents through the frozen teacher's own way down, as LADD does (Sauer et al., arXiv
2403.12015): there are no such weights to be had here, and no decoding is needed. Everything is on latents.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from training import codes, diffusion, teacher
from training.batches import Batch
from training.diffusion import LAST, SCHEDULE, STUDENT_STEPS, Drawer, World, denoise
from training.generator import WIDTHS
from training.loop import run
from training.optim import cosine
from training.paths import WORK

Losses = Literal["both", "adversarial", "distillation", "regression"]
"""ADD, its two ablations, and the plain regression to the data that the shipped model was made by."""

STEPS, BATCH = 200, 16
WEIGHT = 2.5
"""lambda of equation 1."""
R1 = 1e-5
"""gamma of equation 3."""
RATE, HEADS_RATE = 2e-4, 1e-3


def path_of(losses: Losses) -> Path:
    """Where a student's checkpoint lies."""
    return WORK / f"add-{losses}.pt"


class Head(nn.Module):
    """A light discriminator head on one map of features, conditioned on the text by projection.

    Scores (B, h, w) = psi(f) + <f', W c> with f' the head's inner features (Miyato & Koyama, arXiv 1802.05637).
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        """`channels` of the map."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.GroupNorm(8, width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.GroupNorm(8, width),
            nn.LeakyReLU(0.2),
        )
        self.score = nn.Conv2d(width, 1, 1)
        self.text = nn.Linear(codes.CODE, width, bias=False)

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        """Maps (B, C, h, w) and codes (B, CODE) to scores (B, h, w): high for real."""
        inner = self.body(maps)
        scores: Tensor = self.score(inner)[:, 0] + torch.einsum("bchw,bc->bhw", inner, self.text(code)) / 8
        return scores


class Heads(nn.Module):
    """One head per map of `diffusion.features`."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        """`widths`: the maps' channels."""
        super().__init__()
        self.heads = nn.ModuleList(Head(width) for width in widths)

    def forward(self, maps: list[Tensor], code: Tensor) -> list[Tensor]:
        """Scores (B, h, w) of each map."""
        return [head(each, code) for head, each in zip(self.heads, maps, strict=True)]


def generator_loss(fake: list[Tensor]) -> Tensor:
    """Equation 2, the mean over heads: -E[D(fake)]."""
    return torch.stack([-scores.mean() for scores in fake]).mean()


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Equation 3's hinge, the mean over heads: E[max(0, 1 - D(real))] + E[max(0, 1 + D(fake))]."""
    parts = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(parts).mean()


def penalty(real: list[Tensor], maps: list[Tensor]) -> Tensor:
    """R1: the squared gradient of each head's summed scores with respect to its input map, mean over pictures."""
    gradients = torch.autograd.grad([scores.sum() for scores in real], maps, create_graph=True)
    return torch.stack([g.flatten(1).pow(2).sum(1).mean() for g in gradients]).mean()


def distillation_loss(made: Tensor, taught: Tensor, t: Tensor) -> Tensor:
    """Equation 4: E[c(t) d(student, teacher)] with d the mean squared error and c(t) = alpha_t, its best by FID."""
    return (SCHEDULE.alpha[t].flatten() * (made - taught.detach()).pow(2).flatten(1).mean(1)).mean()


def noise_levels(rng: np.random.Generator, size: int) -> Tensor:
    """Steps (B,) at which the discriminator looks: logit-normal, as LADD's, here with mean 0 and deviation 1."""
    return torch.from_numpy((LAST / (1 + np.exp(-rng.normal(size=size)))).astype(np.int64))


class Student(Drawer):
    """`loop.Learner` of ADD and its ablations."""

    def __init__(
        self, unet: UNet2DConditionModel, world: World, losses: Losses = "both", batch: int = BATCH
    ) -> None:
        """`unet` is the teacher: it stays, a copy of it learns."""
        super().__init__(copy.deepcopy(unet), world, batch)
        torch.manual_seed(0)
        self.teacher, self.losses = unet.eval().requires_grad_(False), losses
        self.heads = Heads(tuple(unet.config.block_out_channels))
        self.optimiser = torch.optim.AdamW(self.unet.parameters(), lr=RATE, betas=(0.0, 0.99), weight_decay=0)
        self.judges = torch.optim.AdamW(
            self.heads.parameters(), lr=HEADS_RATE, betas=(0.0, 0.99), weight_decay=0
        )

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`: the student once, then its discriminator once."""
        drawn = self.world.draw(self.batch, rng)
        s = torch.from_numpy(rng.choice(STUDENT_STEPS, self.batch))
        x0, code, crops = drawn.x0, drawn.code, drawn.crops
        made = denoise(self.unet, SCHEDULE.noisy(x0, drawn.noise, s), s, code, crops)
        said = {"distance": (made.detach() - x0).abs().mean().item()}
        loss = made.new_zeros(())
        if self.losses == "regression":
            loss = F.mse_loss(made, x0)
        if self.losses in ("both", "distillation"):
            distilled = self.distil(made, drawn, rng)
            loss = loss + WEIGHT * distilled
            said["distillation"] = distilled.item()
        t = noise_levels(rng, self.batch)
        if self.losses in ("both", "adversarial"):
            fooled = generator_loss(self.scores(made, t, drawn))
            loss = loss + fooled
            said["adversarial"] = fooled.item()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for optimiser, rate in ((self.optimiser, RATE), (self.judges, HEADS_RATE)):
            for group in optimiser.param_groups:
                group["lr"] = rate * cosine(fraction, index, warmup=20, floor=0.2)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update()
        if self.losses in ("both", "adversarial"):
            said["discriminator"] = self.discriminate(made.detach(), t, drawn)
        return said

    def distil(self, made: Tensor, drawn: Batch, rng: np.random.Generator) -> Tensor:
        """L_distill: the teacher's one step from the student's picture, noised afresh to a uniform step."""
        t = torch.from_numpy(rng.integers(LAST + 1, size=len(made)))
        with torch.no_grad():
            x = SCHEDULE.noisy(made.detach(), torch.randn_like(made), t)
            taught = denoise(self.teacher, x, t, drawn.code, drawn.crops)
        return distillation_loss(made, taught, t)

    def maps(self, x0: Tensor, t: Tensor, drawn: Batch) -> list[Tensor]:
        """The frozen teacher's features of latents noised to steps t."""
        x = SCHEDULE.noisy(x0, torch.randn_like(x0), t)
        return diffusion.features(self.teacher, x, t, drawn.code, drawn.crops)

    def scores(self, x0: Tensor, t: Tensor, drawn: Batch) -> list[Tensor]:
        """What the heads say of latents."""
        said: list[Tensor] = self.heads(self.maps(x0, t, drawn), drawn.code)
        return said

    def discriminate(self, made: Tensor, t: Tensor, drawn: Batch) -> float:
        """The heads learn once; their hinge loss, 2 where they know nothing."""
        with torch.no_grad():
            real, fake = self.maps(drawn.x0, t, drawn), self.maps(made, t, drawn)
        real = [each.requires_grad_() for each in real]
        told = self.heads(real, drawn.code)
        hinge = discriminator_loss(told, self.heads(fake, drawn.code))
        self.judges.zero_grad()  # the student's own loss has left gradients here
        torch.autograd.backward(hinge + R1 * penalty(told, real))
        self.judges.step()
        return hinge.item()

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        parts = {name: getattr(self, name).state_dict() for name in ("optimiser", "heads", "judges")}
        return {**super().state_dict(), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        super().load_state_dict(state)
        for name in ("optimiser", "heads", "judges"):
            getattr(self, name).load_state_dict(state[name])


def train(
    losses: Losses = "both",
    steps: int = STEPS,
    path: Path | None = None,
    world: World | None = None,
    batch: int = BATCH,
) -> None:
    """Train a student to `steps`, going on from its checkpoint; without one, from the teacher's weights."""
    student = Student(diffusion.load(teacher.CHECKPOINT), world or World(), losses, batch)
    run(student, steps, path or path_of(losses), save_every=50, sheet_every=100)
