"""The teacher: many-step latent diffusion in the small world, from the shipped generator's weights.

The ordinary loss, mean squared error of v at uniform steps (Salimans & Ho, arXiv 2202.00512), with a tenth of
the prompts dropped for classifier-free guidance (Ho & Salimans, arXiv 2207.12598). What the shipped weights give
it is what things look like; that the noise is to be read, and that things look both ways, it has to learn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from training import generator
from training.diffusion import LAST, SCHEDULE, Drawer, World, ddim, shipped, velocity
from training.loop import run
from training.optim import cosine
from training.paths import WORK

CHECKPOINT = WORK / "teacher.pt"
STEPS, BATCH = 400, 32
DROPPED = 0.1
RATE = 0.5
"""Of the generator's own learning rates."""


def loss(
    unet: UNet2DConditionModel, x0: Tensor, noise: Tensor, t: Tensor, code: Tensor, crops: Tensor
) -> Tensor:
    """Mean squared error of v at steps t (B,)."""
    made = velocity(unet, SCHEDULE.noisy(x0, noise, t), t, code, crops)
    return F.mse_loss(made, SCHEDULE.velocity(x0, noise, t))


class Teacher(Drawer):
    """`loop.Learner` of the teacher."""

    few = (1, 4, 20)

    def __init__(self, unet: UNet2DConditionModel, world: World, batch: int = BATCH) -> None:
        """`unet` is trained in place."""
        super().__init__(unet, world, batch)
        self.optimiser = generator.muon(unet, RATE)

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`."""
        noise, code, _, crops, x0 = self.world.draw(self.batch, rng)
        told = torch.from_numpy(rng.random((self.batch, 1)) >= DROPPED)
        t = torch.from_numpy(rng.integers(LAST + 1, size=self.batch))
        error = loss(self.unet, x0, noise, t, code * told, crops)
        torch.autograd.backward(error)
        torch.nn.utils.clip_grad_norm_(self.optimiser.parameters, 1.0)
        self.optimiser.step(cosine(fraction, index, warmup=30))
        self.average.update()
        return {"v": error.item()}

    def paint(self, noise: Tensor, code: Tensor, crops: Tensor, steps: int) -> Tensor:
        """See `Drawer`."""
        with torch.no_grad():
            return ddim(self.unet, noise, code, crops, steps)

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        return {**super().state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        super().load_state_dict(state)
        self.optimiser.load_state_dict(state["optimiser"])


def train(
    steps: int = STEPS, path: Path = CHECKPOINT, world: World | None = None, batch: int = BATCH
) -> None:
    """Train to `steps`, going on from the checkpoint at `path`."""
    run(Teacher(shipped(), world or World(), batch), steps, path)
