"""What things look like, as a few numbers: principal components of their art's latents.

Where a thing is said to the generator by such numbers, and not by a number of its own, what is learnt of one thing
helps to draw those that look like it: faces share their roundness, fruit their shine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.codes import LOOKING, LOOKS
from training.concepts import CONCEPTS
from training.latents import PLACED as SIZE
from training.latents import Composer, Encoder, Pose, Scene

BLACK_AND_WHITE = torch.tensor([[0.0] * 3, [1.0] * 3])


def components(composer: Composer, encoder: Encoder, count: int, power: float = 0.5) -> Tensor:
    """(things, count): the first principal components of all things' latents over black and white.

    Each spreads as the `power` of its own spread: 0 is whitened, 1 leaves it as it is. Zeros where there are not so
    many.
    """
    every = []
    for i in range(len(CONCEPTS)):
        cutout = composer.cutouts([Scene(i, None, 0, Pose(0, 0, SIZE))]).expand(2, -1, -1, -1)
        every.append(encoder.cutouts(cutout, BLACK_AND_WHITE).flatten())
    x = torch.stack(every)
    left, spread, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    found = left[:, :count] * spread[:count] ** power
    return torch.cat([found, found.new_zeros(len(x), count - found.shape[1])], 1)


def fit(composer: Composer, encoder: Encoder) -> None:
    """Write `codes.LOOKS` for all things, each of the same length; other numbers mean that text encoder and
    generator must be trained anew."""
    looks = components(composer, encoder, LOOKING)
    looks *= (LOOKING / 16) ** 0.5 / looks.norm(dim=1, keepdim=True)
    np.save(LOOKS, looks.numpy().astype(np.float16))
