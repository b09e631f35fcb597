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
from training.data import load_art
from training.latents import PLACED as SIZE
from training.latents import Composer, Encoder, Pose, Scene

BLACK_AND_WHITE = torch.tensor([[0.0] * 3, [1.0] * 3])


def components(composer: Composer, encoder: Encoder, count: int) -> Tensor:
    """(things, count): the first principal components of all things' latents over black and white, half-whitened.

    Zeros where there are not so many.
    """
    every = []
    for i in range(len(CONCEPTS)):
        cutout = composer.cutouts([Scene(i, None, 0, Pose(0, 0, SIZE))]).expand(2, -1, -1, -1)
        every.append(encoder.cutouts(cutout, BLACK_AND_WHITE).flatten())
    x = torch.stack(every)
    left, spread, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    found = left[:, :count] * spread[:count].sqrt()
    return torch.cat([found, found.new_zeros(len(x), count - found.shape[1])], 1)


def fit() -> None:
    """Write `codes.LOOKS`, if it does not hold all things: each of the same length, from the rendered art.

    Other numbers mean that text encoder and generator must be trained anew.
    """
    if LOOKS.exists() and len(np.load(LOOKS)) == len(CONCEPTS):
        return
    composer, encoder = Composer(*load_art((SIZE,))), Encoder.load()
    looks = components(composer, encoder, LOOKING)
    looks *= (LOOKING / 16) ** 0.5 / looks.norm(dim=1, keepdim=True)
    np.save(LOOKS, looks.numpy().astype(np.float16))
    raise SystemExit(
        f"{LOOKS.name} holds {len(looks)} things now: give the command again, to begin with them"
    )
