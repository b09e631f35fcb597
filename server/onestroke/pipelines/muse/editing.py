"""Editing as Muse does it, with no training for it: a row that starts from a picture instead of from masks.

Each function sets a prepared row off; from there it is a row like any other and shares passes with all of them.
They run on the thread that owns the device. What is not repainted is what the VQ model makes of the picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from onestroke.errors import InvalidRequest
from onestroke.pipelines.device import device_errors
from onestroke.pipelines.images import Pixels
from onestroke.pipelines.muse.sampling import Second, Step, steps_of

if TYPE_CHECKING:
    from onestroke.pipelines.muse.pipeline import MusePipeline, MuseRow

Mask = npt.NDArray[np.bool_]
"""(height, width), True where the picture is to be painted anew."""

RESAMPLED, TOP_K = 0.08, 3
"""The paper's mask-free editing: 8% of the tokens in every step, each drawn from the three likeliest. It takes 100
steps at a guidance scale of 4; those are the request's."""


@torch.inference_mode()
def inpaint(pipeline: MusePipeline, row: MuseRow, image: Pixels, mask: Mask) -> None:
    """Let `row` paint anew what `mask` covers of `image`, in parallel decoding like a whole picture.

    The masks fall linearly rather than along the cosine, as in aMUSEd's own inpainting. A token is repainted where
    the mask, shrunk to a pixel for each token, covers half of it. Where super-resolution follows, it goes on in the
    same way from the large picture's tokens. Raises InvalidRequest naming "image" or "mask".
    """
    _check_image(row, image)
    if mask.shape != image.shape[:2]:
        raise InvalidRequest(
            f"the mask is {_size(mask)} and the image {_size(image)}: give one of its size", "mask"
        )
    linear = pipeline.rule._replace(schedule="linear")
    row.tokens, row.share = _masked(pipeline, image, mask, row.tokens)
    if row.second is None:
        row.steps = steps_of(linear, row.request.steps)
        return
    begins = row.second.begins
    row.second = Second(begins, *_masked(pipeline, image, mask, row.second.tokens))
    row.steps = (*steps_of(linear, begins), *steps_of(linear, row.request.steps - begins))


def outpaint(pipeline: MusePipeline, row: MuseRow, image: Pixels, left: int, top: int) -> None:
    """Let `row` paint around `image`, whose upper left corner is put at (left, top) of the row's picture.

    Raises InvalidRequest naming "image" where it does not lie within, or leaves nothing to paint.
    """
    height, width = row.request.height, row.request.width
    right, bottom = width - left - image.shape[1], height - top - image.shape[0]
    if min(left, top, right, bottom) < 0:
        raise InvalidRequest(
            f"the image is {_size(image)} at {left}, {top}: it must lie within the picture of {width}x{height}",
            "image",
        )
    around = ((top, bottom), (left, right))
    mask = np.pad(np.zeros(image.shape[:2], bool), around, constant_values=True)
    if not mask.any():
        raise InvalidRequest("the image fills the picture: there is nothing to paint around it", "image")
    # Its edges are drawn out, so that the tokens along them see no border.
    inpaint(pipeline, row, np.pad(image, (*around, (0, 0)), mode="edge"), mask)


@torch.inference_mode()
def edit(pipeline: MusePipeline, row: MuseRow, image: Pixels) -> None:
    """Let `row` change `image` towards its prompt without a mask: each step draws some tokens at random anew.

    Where super-resolution follows, the small picture is edited, and the large one drawn from it.

    Raises InvalidRequest naming "image".
    """
    _check_image(row, image)
    row.tokens = _tokens(pipeline, image, row.tokens)
    first = row.second.begins if row.second else row.request.steps
    row.steps = (Step(0.0, 0.0, resampled=RESAMPLED, top_k=TOP_K),) * first + row.steps[first:]


def _tokens(pipeline: MusePipeline, image: Pixels, like: torch.Tensor) -> torch.Tensor:
    """`image` in tokens, brought to the size of the grid `like`."""
    height, width = (side * pipeline.codec.scale for side in like.shape)
    if image.shape[:2] != (height, width):
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    with device_errors(pipeline.device):
        return pipeline.codec.encode(image)


def _masked(
    pipeline: MusePipeline, image: Pixels, mask: Mask, like: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """The same with masks where `mask` covers a token by half or more, and how much that is.

    Raises InvalidRequest where it covers none.
    """
    height, width = like.shape
    small = Image.fromarray(np.uint8(mask) * 255).resize((width, height), Image.Resampling.LANCZOS)
    covered = torch.tensor(np.asarray(small) / 255 >= 0.5, device=like.device)
    if not covered.any():
        raise InvalidRequest("the mask covers nothing: mark what is to be painted anew", "mask")
    tokens = _tokens(pipeline, image, like).masked_fill(covered, pipeline.rule.mask)
    return tokens, float(covered.sum() / covered.numel())


def _check_image(row: MuseRow, image: Pixels) -> None:
    expected = (row.request.height, row.request.width, 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise InvalidRequest(
            f"the image is {_size(image)} and the picture {expected[1]}x{expected[0]}: give one of its size, in "
            "RGB of eight bits",
            "image",
        )


def _size(array: npt.NDArray[np.generic]) -> str:
    return "x".join(str(side) for side in (*array.shape[1::-1], *array.shape[2:]))
