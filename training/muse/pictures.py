"""The world that this Muse knows: 16 things in their own colours, on every background, looking either way.

Which way a thing looks is chance: the prompt does not say. So there is a distribution to sample, and tokens that
are drawn apart from one another would mix both ways.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training import diffusion
from training.codes import WHITE, Target
from training.concepts import COLOUR_NAMES, CONCEPTS
from training.data import load_art
from training.drawings import caption_of
from training.grammar import parse
from training.latents import EDGE, PALETTE, PLACED, Composer, Pose, Scene

THINGS = diffusion.THINGS[:16]
"""A quarter of those of `diffusion`, whose world this is otherwise: few enough for minutes of training."""
SMALL, LARGE = 64, 128
"""Edges in pixels of the base model's pictures and of the super-resolution stage's."""
MOST_WORDS = 3


class View(NamedTuple):
    """A picture of the world: a target with a thing in it, and whether the thing is mirrored."""

    target: Target
    mirrored: bool = False


class Pictures:
    """Paints views. Things are kept as premultiplied cut-outs of the large size."""

    def __init__(self, composer: Composer | None = None) -> None:
        """With a composer's art, or the rendered art at the generator's size."""
        composer = composer or Composer(*load_art((PLACED,)))
        self.things: dict[int | None, Tensor] = {}
        for thing in THINGS:
            cutout = composer.cutout(Scene(thing, None, WHITE, Pose(0, 0, PLACED)))
            self.things[thing] = F.avg_pool2d(cutout.permute(2, 0, 1).float() / 255, EDGE // LARGE)

    def paint(self, views: list[View], edge: int) -> Tensor:
        """(B, 3, edge, edge) in 0..1, `edge` being LARGE or a part of it."""
        cutouts = torch.stack([self.things[each.target.concept] for each in views])
        mirrored = torch.tensor([each.mirrored for each in views])[:, None, None, None]
        cutouts = F.avg_pool2d(torch.where(mirrored, cutouts.flip(-1), cutouts), LARGE // edge)
        grounds = torch.from_numpy(PALETTE[[each.target.background for each in views]])[:, :, None, None]
        return cutouts[:, :3] + (1 - cutouts[:, 3:]) * grounds


def sample(rng: np.random.Generator) -> View:
    """A training picture: a third on white, the rest on any background that is not held out for the thing."""
    target = diffusion.target(rng)
    while target.concept not in THINGS:
        target = diffusion.target(rng)
    return View(target, bool(rng.random() < 0.5))


@lru_cache(maxsize=2000)
def captions(target: Target) -> tuple[str, ...]:
    """Plain ways of asking for a target with a thing, of which `parse` says that they mean just that."""
    assert target.concept is not None
    ground = COLOUR_NAMES[target.background]
    grounds = (
        ["", " on white"] if target.background == WHITE else [f" on {ground}", f" on a {ground} background"]
    )
    words = CONCEPTS[target.concept].words[:MOST_WORDS]
    asked = [f"{opening}{word}{after}" for word in words for opening in ("", "a ") for after in grounds]
    return caption_of(target), *(each for each in asked if parse(each) == target)


def to_bytes(pictures: Tensor) -> NDArray[np.uint8]:
    """(B, 3, h, w) in 0..1 as (B, h, w, 3) bytes."""
    made: NDArray[np.uint8] = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return made
