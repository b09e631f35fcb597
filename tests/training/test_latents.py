"""Composition and the linear encoder."""

from __future__ import annotations

import numpy as np
import torch

from onestroke.models.catalog import CATALOG
from training.concepts import COLOUR_NAMES
from training.data import SIZES, colour_mask, main_colour
from training.latents import (
    CHANNELS,
    CROPS,
    GRID,
    PALETTE,
    PATCH,
    Composer,
    Encoder,
    Pose,
    Scene,
    cropped,
    flatten,
    patches,
)

WHITE, BLUE = COLOUR_NAMES.index("white"), COLOUR_NAMES.index("blue")
MIDDLE = Pose(0, 0, SIZES[0])


def test_a_scene_shows_its_parts(composer: Composer) -> None:
    """The thing in the middle, the background around it, the new colour where one is asked for."""
    scenes = [Scene(0, None, BLUE, MIDDLE), Scene(0, BLUE, WHITE, MIDDLE), Scene(None, None, BLUE, MIDDLE)]
    pictures = (composer.pictures(scenes) + 1) / 2
    blue = torch.from_numpy(PALETTE[BLUE])
    assert torch.allclose(pictures[0, :, 0, 0], blue, atol=1e-3)
    assert torch.allclose(pictures[0, :, 256, 256] * 255, torch.tensor([200.0, 60, 30]), atol=1.5)
    assert torch.allclose(pictures[1, :, 256, 256], blue, atol=0.02)
    assert torch.allclose(pictures[2], blue[:, None, None].expand(3, 512, 512), atol=1e-3)


def test_cutting_out_at_the_edge(composer: Composer) -> None:
    """A large thing far off the middle is cut, not wrapped."""
    cutout = composer.cutout(Scene(0, None, WHITE, Pose(40, -40, SIZES[-1])))
    assert cutout.shape == (512, 512, 4)
    assert cutout[:, 0, 3].max() == 0


def test_the_fast_encoder_is_the_encoder(composer: Composer, encoder: Encoder) -> None:
    """Encoding cut-outs over a background equals encoding the flat picture."""
    scenes = [Scene(3, None, BLUE, Pose(7, -20, SIZES[2])), Scene(5, BLUE, WHITE, MIDDLE)]
    cutouts, backgrounds = composer.cutouts(scenes), torch.from_numpy(PALETTE[[s.background for s in scenes]])
    fast = encoder.cutouts(cutouts, backgrounds)
    slow = encoder.pictures(flatten(cutouts, backgrounds))
    assert fast.shape == (2, CHANNELS, GRID, GRID)
    assert torch.allclose(fast, slow, atol=1e-4)


def test_latents_are_linear_and_move_with_the_picture(encoder: Encoder) -> None:
    """Sums map to sums, and a shift by a patch to a shift by a cell."""
    a, b = torch.rand(2, 1, 3, 64, 64)
    assert torch.allclose(
        encoder.pictures(a + 2 * b), encoder.pictures(a) + 2 * encoder.pictures(b), atol=1e-4
    )
    moved = encoder.pictures(a.roll(PATCH, 3))
    assert torch.allclose(moved, encoder.pictures(a).roll(1, 3), atol=1e-5)
    assert patches(a).shape == (1, 4, 4, 768)


def test_a_crop_moves_the_thing_to_the_other_side(composer: Composer) -> None:
    """Cutting out further down and to the right shows the thing further up and to the left."""
    middle, moved = composer.cutouts([Scene(0, None, WHITE, cropped(crop)) for crop in ((0, 0), (32, -16))])
    assert torch.equal(moved[:-32, 16:], middle[32:, :-16])


def test_the_main_colour_and_its_mask() -> None:
    """The larger coloured area is found, its shades with it, black eyes are not."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[..., :3] = (250, 140, 30)
    rgba[:20, :, :3] = (200, 110, 24)
    rgba[30:40, 30:40, :3] = (20, 20, 20)
    rgba[50:, 50:, :3] = (40, 90, 220)
    main = main_colour(rgba)
    mask = colour_mask(rgba, main)
    assert main[0] > 0.8
    assert main[2] < 0.2
    assert mask[45, 10] == 255
    assert mask[10, 10] > 200
    assert mask[35, 35] == 0
    assert mask[60, 60] == 0


def test_the_server_chooses_from_the_crops_that_were_taught() -> None:
    """The catalog states them for the front, which cannot import the training."""
    assert CATALOG["embedded"].crops == CROPS
