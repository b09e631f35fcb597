"""What the verbs pass around: a row on its way to a picture, what a step did to it, how long verbs took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from onestroke.core import GenerationRequest, SourceImage
from onestroke.errors import OnestrokeError
from onestroke.pipelines.noise import Noise
from onestroke.pipelines.samplers import SamplerTable
from onestroke.pipelines.text import Embedding, Tokens
from onestroke.pipelines.transfer import Upload

Progress = Callable[[str, float], None]
"""Told what is being done and how far along it is, 0 to 1."""


class Timed(NamedTuple):
    """One timed verb, as in a Sample: `n` rows took `seconds`."""

    verb: str
    n: int
    seconds: float
    steered: int = 0


class Source(NamedTuple):
    """The picture that a row starts from, until it has started.

    `pixels` (height, width, 3) are uint8 on the host, None where its latents were known; `noise` is what latents
    are drawn with, None where they are not drawn.
    """

    image: SourceImage
    pixels: torch.Tensor | None
    noise: Upload | None


@dataclass(slots=True, eq=False)
class Row:
    """One picture on its way; `sent` are its latents (channels, h, w), fp32, on the device or on the way there.

    `held` is the preview of the step before, where the next step wants it. `hint` is what its ControlNet made of
    the control image, whose pixels are kept until then where it is not known.
    """

    id: int
    request: GenerationRequest
    tokens: Tokens
    negative_tokens: Tokens | None
    table: SamplerTable
    noise: Noise
    sent: Upload
    source: Source | None = None
    control_pixels: torch.Tensor | None = None
    hint: torch.Tensor | None = None
    step: int = 0
    held: torch.Tensor | None = None
    embedding: Embedding | None = None
    negative: Embedding | None = None
    error: OnestrokeError | None = None

    @property
    def latents(self) -> torch.Tensor:
        return self.sent.tensor

    @latents.setter
    def latents(self, made: torch.Tensor) -> None:
        self.sent = Upload(made, None)

    @property
    def truncated(self) -> bool:
        """Whether the prompt was longer than the text encoder reads."""
        return self.tokens.truncated

    @property
    def revised_prompt(self) -> str | None:
        """The prompt as the text encoder reads it, None where that is as it was given."""
        return self.tokens.prompt if self.tokens.prompt != self.request.prompt else None

    @property
    def finished(self) -> bool:
        return self.step >= len(self.table)

    @property
    def unet_rows(self) -> int:
        return self.request.unet_rows


class Stepped(NamedTuple):
    """What a step did: rows that are ready to decode, and rows that failed (each with its `error` set)."""

    finished: list[Row]
    failed: list[Row]
