"""The nouns that every layer shares: what is asked for and what comes back. No torch, no FastAPI."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Literal, NamedTuple

MAX_SEED = 2**53
"""Seeds are below this, so that JavaScript's numbers carry them exactly."""


DecoderName = Literal["full", "tiny"]


class ImageFormat(StrEnum):
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        return f"image/{self.value}"


class AdapterUse(NamedTuple):
    """A LoRA by its name, and how strongly it acts."""

    name: str
    scale: float = 1.0


class BatchKey(NamedTuple):
    """What rows must share to ride one pass; all else is per row."""

    model: str
    width: int
    height: int
    adapters: tuple[AdapterUse, ...] = ()
    group: tuple[int, float] | None = None
    """Steps and guidance, for a model that draws a picture in one call."""


class FitKey(NamedTuple):
    """What passes are alike in cost: those of one model, and of one number of steps where a pass takes them all."""

    model: str
    steps: int = 0
    guided: bool = False

    @property
    def work(self) -> int:
        """How much of the network's work a row of such a pass is, compared with others of its model."""
        return max(1, self.steps) * (2 if self.guided else 1)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An encoded picture (PNG, JPEG or WebP) of the size that is drawn; `digest` stands for it in comparisons.

    `resized_from` is the (width, height) that it came in, None where it came as it is.
    """

    digest: str
    data: bytes = field(repr=False, compare=False)
    resized_from: tuple[int, int] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, data: bytes, resized_from: tuple[int, int] | None = None) -> SourceImage:
        return cls(blake2b(data, digest_size=16).hexdigest(), data, resized_from)


class Margins(NamedTuple):
    """Pixels of the drawn picture on each side of the one that it goes on from."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def within(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that they leave of `size`; not above 0 where they are too wide."""
        return size[0] - self.left - self.right, size[1] - self.top - self.bottom


@dataclass(frozen=True, slots=True)
class Control:
    """The ControlNet called `name` steers by `image`, which it reads as it is; `scale` 0 is no steering."""

    name: str
    image: SourceImage
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One picture, fully resolved: the picture is a function of this (and of the buckets it rode in).

    `negative_prompt` None (zero embeddings where the model says so) and "" (an encoded empty prompt) are
    different things, as in diffusers. `timesteps` None means the sampler's own spacing over `steps`.
    `crop` is SDXL's micro-conditioning: the corner (top, left) in pixels at which the picture is said to be cut.
    `decoder` is the one wanted where the model has two: quality for whoever waits for one picture, speed for
    whoever types. `quality` is 1-100 and holds for JPEG and WebP. `adapters` stand in the order of their names.
    `whole` says that its model draws a picture in one call, which rows of the same steps and guidance share: one
    pass, however many steps.

    `image` is the picture to start from. On a UNet `strength`, above 0 to 1, is then the share of the steps that
    are taken (image-to-image). Muse paints anew what is white in `mask`, or around the picture, which is then of
    the size that `expand` leaves, or edits freely without either.
    """

    model: str
    prompt: str
    seed: int
    steps: int = 1
    guidance_scale: float = 0.0
    negative_prompt: str | None = None
    sampler: str = "euler_ancestral"
    timesteps: tuple[int, ...] | None = None
    width: int = 512
    height: int = 512
    crop: tuple[int, int] = (0, 0)
    decoder: DecoderName = "full"
    format: ImageFormat = ImageFormat.JPEG
    quality: int = 85
    adapters: tuple[AdapterUse, ...] = ()
    whole: bool = False
    image: SourceImage | None = None
    strength: float | None = None
    mask: SourceImage | None = None
    expand: Margins | None = None
    control: Control | None = None
    embeds_guidance: bool = False

    @property
    def key(self) -> BatchKey:
        group = (self.steps, self.guidance_scale) if self.whole else None
        return BatchKey(self.model, self.width, self.height, self.adapters, group)

    @property
    def fit(self) -> FitKey:
        return FitKey(self.model, self.steps, self.guided) if self.whole else FitKey(self.model)

    @property
    def passes(self) -> int:
        """Passes from the start to the picture."""
        return 1 if self.whole else self.steps_taken

    @property
    def guided(self) -> bool:
        """Whether a step costs two UNet rows: diffusers guides when the scale is above 1, in LCM by an input."""
        return self.guidance_scale > 1.0 and not self.embeds_guidance

    @property
    def unet_rows(self) -> int:
        return 2 if self.guided and not self.whole else 1

    @property
    def steered_rows(self) -> int:
        """Of its UNet rows, those that a ControlNet runs on too."""
        return self.unet_rows if self.control else 0

    @property
    def steps_taken(self) -> int:
        """Those of `steps` that are run: image-to-image starts late, counted as diffusers counts."""
        return self.steps if self.strength is None else min(int(self.steps * self.strength), self.steps)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a picture's time went, in seconds. The pass's times are those of the sub-batches it rode in."""

    queue: float = 0.0
    encode: float = 0.0
    step: float = 0.0
    decode: float = 0.0
    image: float = 0.0

    def milliseconds(self) -> dict[str, float]:
        return {
            name: round(1000 * value, 2)
            for name, value in (
                ("queue", self.queue),
                ("encode", self.encode),
                ("step", self.step),
                ("decode", self.decode),
                ("image", self.image),
            )
        }


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture: encoded bytes and what is worth saying about them.

    `batch_size` is the number of rows in the pass that stepped it last; `truncated` says that the prompt was
    longer than the text encoder reads and was cut, `revised_prompt` how it was read where slips were put right.
    """

    request: GenerationRequest
    data: bytes
    truncated: bool
    revised_prompt: str | None
    batch_size: int
    timings: Timings
