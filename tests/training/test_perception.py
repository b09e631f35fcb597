"""What counts in the distance of latents, and what it sees of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.decoder import SCALING
from training.latents import CHANNELS, PLACED, Composer, Encoder, Pose, Scene
from training.perception import SEEN, Distance

SCENES = [Scene(i, None, 3 + i, Pose(0, 0, PLACED)) for i in range(2)]


@pytest.fixture(scope="module")
def distance() -> Distance:
    """By the shipped encoder."""
    return Distance(Encoder.load().matrix)


def test_errors_count_as_they_do_in_pixels(distance: Distance) -> None:
    """The same error of each channel in turn, next to what it changes in pixels."""
    errors = torch.eye(CHANNELS)[:, :, None, None]
    pixels = torch.linalg.pinv(Encoder.load().matrix).norm(dim=1)
    counted = (errors * distance.weights).mean((1, 2, 3))
    assert torch.allclose(counted / counted.sum(), pixels / pixels.sum(), rtol=1e-3)
    assert counted[0] > 3 * counted[-1]


def test_small_pictures_are_the_pictures(distance: Distance, composer: Composer) -> None:
    """Without the decoder: latents are linear in the means of four by four pixels, or nearly."""
    pictures = composer.pictures(SCENES)
    small = distance.pictures(Encoder.load().pictures(pictures) * SCALING, 128)
    error = (small - F.interpolate(pictures, (128, 128), mode="area")).square().mean()
    assert 10 * torch.log10(4 / error) > 30


def test_the_eye_looks_at_half_of_a_batch(distance: Distance, composer: Composer) -> None:
    """What is alike is no distance, and what the eye adds to the latents' moves the second of two pictures."""
    true = Encoder.load().pictures(composer.pictures(SCENES)) * SCALING
    assert [float(each) for each in distance(true, true)] == [0, 0]
    made = true.flip(0).requires_grad_()
    pixels = ((made - true).abs() + 0.5 * (made - true).square()).mul(distance.weights).mean((1, 2, 3))
    loss, apart = distance(made, true)
    assert apart.shape == (1,)
    seen = loss - pixels.mean()
    assert float(seen.detach()) == pytest.approx(SEEN * float(apart), rel=1e-3)
    first, second = torch.autograd.grad(seen, made)[0].abs().amax((1, 2, 3)).tolist()
    assert first < 1e-6 < second
