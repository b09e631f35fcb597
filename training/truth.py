"""The judge that knows the truth: what a picture shows, measured against true renders.

Every picture's truth is known: `grammar.parse` says what the prompt means, the crop that the seed chooses where it
stands. A picture is *recognised* when, of all things composed in that place, size, colour and background (and
the plain background), the right one is nearest in mean squared distance at 64x64; a group when each of its things
is, in its own box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onestroke.models.catalog import CATALOG
from training import measures
from training.codes import Target
from training.concepts import COLOUR_NAMES, CONCEPTS, NAMES, STYLE_NAMES
from training.data import SMALL, load_art
from training.latents import (
    CHANNELS,
    EDGE,
    GRID,
    PLACED,
    TONES,
    Composer,
    Pose,
    Scene,
    behind,
    cropped,
    grounds,
    place,
    washes,
)

TINY = 64
"""Edge at which pictures are compared, in pixels."""
ALL = range(len(CONCEPTS))
FINE = 4
"""How much smaller than pictures the judge keeps things that it moves about."""
SHADES = (None, *range(len(COLOUR_NAMES)))


def noise_of(seed: int) -> Tensor:
    """(1, 24, 32, 32): the noise that diffusers draws for a seed."""
    return torch.randn((1, CHANNELS, GRID, GRID), generator=torch.Generator().manual_seed(seed))


def crop_of(seed: int) -> tuple[int, int]:
    """The crop's corner (top, left) that the server chooses for a seed."""
    return CATALOG["embedded"].crop(seed)


def pose_of(seed: int) -> Pose:
    """Where a seed puts the thing."""
    return cropped(crop_of(seed))


class Judge:
    """Nearest true render among all concepts in the same place, colour and style."""

    def __init__(self, composer: Composer | None = None) -> None:
        """Nothing is composed before it is asked for."""
        self.composer = composer or Composer(*load_art((PLACED, SMALL)))
        self.wide: dict[tuple[int | None, int | None, int], Tensor] = {}
        self.kept: dict[tuple[int | None, int | None, int, Pose], Tensor] = {}

    def cutouts(self, colour: int | None, target: Target, pose: Pose) -> Tensor:
        """(things, 4, h, w) all concepts, premultiplied, in 0..1, in a colour and in the target's style.

        Of a thing alone the whole picture, 64 pixels wide, of a group's its own box.
        """
        key = (colour, target.style, behind(target))
        box = slice((EDGE - SMALL) // 2, (EDGE + SMALL) // 2) if pose.size == SMALL else slice(None)
        if pose.size == SMALL:
            pose = Pose(0, 0, SMALL)  # a box is the same wherever it stands
        if (*key, pose) in self.kept:
            return self.kept[*key, pose].float() / 255

        def shrunk(concept: int, at: Pose, scale: int) -> Tensor:
            cutout = self.composer.cutout(Scene(concept, colour, behind(target), at, target.style))[box, box]
            return F.avg_pool2d(cutout.permute(2, 0, 1).float(), scale)

        if pose.size == SMALL:
            made = torch.stack([shrunk(i, pose, EDGE // TINY) for i in ALL])
        else:
            # Composing is what takes long, and poses differ by whole pixels of what is composed here once.
            if key not in self.wide:
                self.wide[key] = torch.stack([shrunk(i, pose._replace(dx=0, dy=0), FINE).byte() for i in ALL])
            x, y = pose.dx // FINE, pose.dy // FINE
            moved = F.pad(self.wide[key].float(), (x, -x, y, -y))
            made = F.avg_pool2d(moved, EDGE // TINY // FINE)
        self.kept[*key, pose] = made.round().byte()
        return made / 255

    def group(self, x: Tensor, target: Target) -> list[int]:
        """The concepts at a group's places in a picture (3, 512, 512); `len(CONCEPTS)` is nothing."""
        shade, seen = grounds([target])[0, :, None, None], []
        for thing in target.group:
            pose = place(thing.place)
            cutouts = self.cutouts(thing.colour, target, pose)
            top, left = ((EDGE - SMALL) // 2 + shift for shift in (pose.dy, pose.dx))
            box = F.avg_pool2d(x[:, top : top + SMALL, left : left + SMALL], EDGE // TINY)
            every = cutouts[:, :3] + (1 - cutouts[:, 3:]) * shade
            every = torch.cat([every, shade.expand(1, *box.shape)])
            seen.append(int((every - box).pow(2).mean((1, 2, 3)).argmin()))
        return seen

    def judge(self, picture: NDArray[np.uint8], target: Target, seed: int) -> dict[str, Any]:
        """What a picture shows, and whether it is the target."""
        x = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        psnr = float(-10 * torch.log10((x - self.true(target, seed)).pow(2).mean() + 1e-6))
        ground = grounds([target])[0]
        background = measures.corner_colour(picture)
        if target.style is not None and STYLE_NAMES[target.style] in TONES:
            background = target.background  # no named colour is there any more
        if target.group:
            seen = self.group(x, target)
            right = [one == thing.concept for one, thing in zip(seen, target.group, strict=True)]
            return {
                "concept": all(right),
                "things": sum(right) / len(right),
                "background": background == target.background,
                "seen": ", ".join((*NAMES, "nothing")[one] for one in seen),
                "psnr": psnr,
            }
        small = F.avg_pool2d(x, EDGE // TINY)
        pose = pose_of(seed)
        cutouts = self.cutouts(target.colour, target, pose)
        every = cutouts[:, :3] + (1 - cutouts[:, 3:]) * ground[None, :, None, None]
        every = torch.cat([every, ground[None, :, None, None].expand(1, 3, TINY, TINY)])
        nearest = int((every - small).pow(2).mean((1, 2, 3)).argmin())
        result: dict[str, Any] = {
            "concept": nearest == (len(CONCEPTS) if target.concept is None else target.concept),
            "background": background == target.background,
            "seen": (*NAMES, "nothing")[nearest],
            "psnr": psnr,
        }
        if target.concept is not None and target.colour is not None and target.style is None:
            row = 1 + target.colour
            scenes = [Scene(target.concept, shade, target.background, pose) for shade in SHADES]
            shades = F.avg_pool2d(self.composer.pictures(scenes).add(1).div(2), EDGE // TINY)
            found = int((shades - small).pow(2).mean((1, 2, 3)).argmin())
            result["colour"] = found == row or bool((shades[found] - shades[row]).abs().mean() < 0.004)
        return result

    def true(self, target: Target, seed: int) -> Tensor:
        """The right picture (3, 512, 512) in 0..1 for a target and a seed."""
        cutout = self.composer.target(target, crop_of(seed)).permute(2, 0, 1).float() / 255
        wash = washes(noise_of(seed), grounds([target]))
        return cutout[:3] + (1 - cutout[3:]) * F.interpolate(wash, size=EDGE)[0]
