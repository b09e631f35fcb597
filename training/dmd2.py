"""DMD2: distribution matching distillation without regression (Yin et al., arXiv 2405.14867) in the small world.

Three networks start from the teacher's weights: the generator (the student), the *fake* score, which follows
what the generator draws, and the *real* score, which is the teacher and stays. Where the two scores differ, the
generator's pictures are unlike the data's, and their difference is the direction to go (DMD, arXiv 2311.18828,
equation 7). The fake score learns five times for each time the generator does, and carries a GAN head on its
bottleneck.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from training import diffusion, teacher
from training.add import Head
from training.batches import Batch
from training.diffusion import LAST, SCHEDULE, STUDENT_STEPS, Drawer, World, denoise, fresh
from training.loop import run
from training.optim import cosine
from training.paths import WORK

CHECKPOINT = WORK / "dmd2.pt"
STEPS, BATCH = 90, 8
UPDATES = 5
"""The fake score's updates per update of the generator."""
FOOL, TELL = 5e-3, 1e-2
"""Weights of the generator's and of the head's GAN losses, DMD2's own for ImageNet and SDXL."""
LOW, HIGH = 0.02, 0.98
"""Where the scores are compared, of all steps."""
RATE, FAKE_RATE = 1e-4, 2e-4


def matching_gradient(x: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """The direction from the data to the generator's pictures x, from both scores' clean latents.

    g = (p_r - p_f) / mean|p_r| with p_r = x - real and p_f = x - fake: DMD's equation 7 with the weight of its
    equation 8, as the authors' code writes it, the mean being over each picture.
    """
    size = (x - real).abs().mean((1, 2, 3), keepdim=True)
    return (fake - real) / size.clamp(min=1e-4)


def matching_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient in x is `gradient` over the number of entries: 0.5 mse(x, stopgrad(x - g))."""
    return 0.5 * F.mse_loss(x, (x - gradient).detach())


def fool_loss(fake: Tensor) -> Tensor:
    """The generator's GAN loss (DMD2, equation 3, non-saturating): softplus(-D(fake))."""
    return F.softplus(-fake).mean()


def tell_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The head's: softplus(-D(real)) + softplus(D(fake))."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


class Student(Drawer):
    """`loop.Learner` of DMD2."""

    def __init__(self, unet: UNet2DConditionModel, world: World, batch: int = BATCH) -> None:
        """`unet` is the teacher and the real score: it stays, two copies of it learn."""
        super().__init__(copy.deepcopy(unet), world, batch)
        self.real, self.fake = (
            unet.eval().requires_grad_(False),
            copy.deepcopy(unet).train().requires_grad_(True),
        )
        torch.manual_seed(0)
        self.head: nn.Module = Head(unet.config.block_out_channels[-1])
        self.optimiser = torch.optim.AdamW(self.unet.parameters(), lr=RATE, betas=(0.0, 0.99), weight_decay=0)
        followers = [*self.fake.parameters(), *self.head.parameters()]
        self.follower = torch.optim.AdamW(followers, lr=FAKE_RATE, betas=(0.0, 0.99), weight_decay=0)

    def draw(self, rng: np.random.Generator) -> tuple[Batch, Tensor]:
        """A batch and what the generator draws for it, from one of its four steps.

        What it sees at a later step is its own earlier drawing, as when it is used (DMD2's backward simulation).
        """
        drawn = self.world.draw(self.batch, rng)
        at = int(rng.integers(len(STUDENT_STEPS)))
        x = drawn.noise
        if at:
            with torch.no_grad():
                earlier = fresh(self.unet, x, drawn.code, drawn.crops, STUDENT_STEPS[:at])
                x = SCHEDULE.noisy(earlier, torch.randn_like(x), torch.full((len(x),), STUDENT_STEPS[at]))
        t = torch.full((len(x),), STUDENT_STEPS[at])
        return drawn, denoise(self.unet, x, t, drawn.code, drawn.crops)

    def told(self, x: Tensor, t: Tensor, drawn: Batch) -> Tensor:
        """The head's scores of noisy latents."""
        middle = diffusion.features(self.fake, x, t, drawn.code, drawn.crops)[-1]
        scores: Tensor = self.head(middle, drawn.code)
        return scores

    def follow(self, rng: np.random.Generator) -> tuple[float, float]:
        """The fake score learns once to denoise what the generator draws, and its head to tell it from the data."""
        with torch.no_grad():
            drawn, made = self.draw(rng)
        t = torch.from_numpy(rng.integers(LAST + 1, size=self.batch))
        score = teacher.loss(self.fake, made, torch.randn_like(made), t, drawn.code, drawn.crops)
        noisy = [SCHEDULE.noisy(x, torch.randn_like(x), t) for x in (drawn.x0, made)]
        tell = tell_loss(*(self.told(x, t, drawn) for x in noisy))
        torch.autograd.backward(score + TELL * tell)
        self.follower.step()
        self.follower.zero_grad()
        return score.item(), tell.item()

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`: the fake score five times, then the generator once."""
        for optimiser, rate in ((self.optimiser, RATE), (self.follower, FAKE_RATE)):
            for group in optimiser.param_groups:
                group["lr"] = rate * cosine(fraction, index, warmup=10, floor=0.2)
        said = [self.follow(rng) for _ in range(UPDATES)]
        drawn, made = self.draw(rng)
        t = torch.from_numpy(rng.integers(int(LOW * LAST), int(HIGH * LAST), size=self.batch))
        x = SCHEDULE.noisy(made, torch.randn_like(made), t)
        with torch.no_grad():
            scores = (denoise(unet, x, t, drawn.code, drawn.crops) for unet in (self.fake, self.real))
            gradient = matching_gradient(made, *scores)
        fool = fool_loss(self.told(x, t, drawn))
        torch.autograd.backward(matching_loss(made, gradient) + FOOL * fool)
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.follower.zero_grad()  # the generator's loss has left gradients there
        self.average.update()
        score, tell = (sum(parts) / UPDATES for parts in zip(*said, strict=True))
        size = gradient.abs().mean().item()
        return {"fake score": score, "tell": tell, "fool": fool.item(), "gradient": size}

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        parts = {name: getattr(self, name).state_dict() for name in ("optimiser", "fake", "head", "follower")}
        return {**super().state_dict(), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        super().load_state_dict(state)
        for name in ("optimiser", "fake", "head", "follower"):
            getattr(self, name).load_state_dict(state[name])


def train(
    steps: int = STEPS, path: Path = CHECKPOINT, world: World | None = None, batch: int = BATCH
) -> None:
    """Train the student to `steps`, going on from its checkpoint; without one, from the teacher's weights."""
    run(
        Student(diffusion.load(teacher.CHECKPOINT), world or World(), batch),
        steps,
        path,
        save_every=20,
        sheet_every=50,
    )
