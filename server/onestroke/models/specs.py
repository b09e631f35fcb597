"""What a model is, as types: its source, how it is sampled, what its licence allows. The rows are in `catalog`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onestroke.core import FitKey
from onestroke.errors import InvalidRequest

SAMPLERS = ("euler", "euler_ancestral", "ddim", "lcm", "tcd", "dpmpp_2m")
"""Samplers that a request may name; each is a table read off diffusers' scheduler of that name."""
SAMPLERS_OF = {"muse": ("amused",), "diffusers": ("own",)}
"""Those of families that have their own."""


@dataclass(frozen=True, slots=True)
class Licence:
    name: str
    commercial: bool | None
    """Whether commercial use is allowed; None: unknown, look it up before you sell anything."""
    url: str = ""

    @property
    def terms(self) -> str:
        return {True: "commercial use allowed", False: "non-commercial", None: "commercial terms unknown"}[
            self.commercial
        ]


@dataclass(frozen=True, slots=True)
class FileSpec:
    """Weights beside a model's own: a UNet in its place, or a LoRA.

    `source` is a hub id or an absolute path. `file` is one of a hub id's; without it a folder of config.json and
    weights is meant, or the path itself.
    """

    source: str
    file: str = ""
    revision: str | None = None
    download_bytes: int = 0
    variant: str | None = None

    @property
    def name(self) -> str:
        return f"{self.source}:{self.file}" if self.file else self.source

    @property
    def is_local(self) -> bool:
        return Path(self.source).is_absolute()


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """A LoRA that requests may name."""

    name: str
    file: FileSpec


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """A ControlNet for models of `family`, which requests call `name`."""

    name: str
    family: str
    weights: FileSpec
    licence: Licence


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One row of the catalog.

    `source` is a diffusers folder, a hub id or a single `.safetensors` file; `revision` is a commit, branch or tag
    of a hub id, None for its default branch; `variant` is preferred where the source has it. `family` is "sdxl",
    "sd", "muse" or "diffusers": models of one family share latents, and so their VAEs, but for those with
    `own_latents`. `vae` is what `choosing.vae_of` takes. A model of the family "diffusers" is drawn by its own
    pipeline, of the class `pipeline`, whose call is given `call` besides. `unet` takes the place of the
    source's own, `loras` are merged into what is loaded.

    `embeds_guidance`: the UNet takes the guidance scale as an input and needs no second row (LCM).
    `only_steps` are the step counts that a checkpoint was distilled to, where it takes no others. `timesteps` maps
    a step count to the timesteps it must use where the sampler's own spacing is not the recipe; `scheduler` holds
    values laid over the model's own scheduler configuration. `sizes` lists (width, height) pairs; the first is the
    default. `crops` are the corners, in pixels down and to the right, that a seed chooses from (see `crop`).
    `reads_pictures` is False where nothing can start from a picture: the VAE's encoder was never trained, or is out
    of reach. `dtype` is "auto" where the worker shall pick the fastest safe one for its device.

    `limits` says what it is bad at. `download_bytes` is what is fetched, `memory_bytes` what serving takes in half
    precision, about; `note` is for the log.
    """

    name: str
    source: str
    family: str
    description: str
    licence: Licence
    revision: str | None = None
    variant: str | None = "fp16"
    vae: str = "auto"
    unet: FileSpec | None = None
    loras: tuple[FileSpec, ...] = ()
    controls: tuple[ControlSpec, ...] = ()
    own_latents: bool = False
    pipeline: str = ""
    call: tuple[tuple[str, Any], ...] = ()
    reads_pictures: bool = True
    sampler: str = "euler_ancestral"
    default_steps: int = 1
    max_steps: int = 50
    only_steps: tuple[int, ...] = ()
    guidance_scale: float = 0.0
    embeds_guidance: bool = False
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    crops: tuple[int, ...] = (0,)
    dtype: str = "auto"
    timesteps: tuple[tuple[int, tuple[int, ...]], ...] = ()
    scheduler: tuple[tuple[str, str], ...] = ()
    limits: str = ""
    download_bytes: int = 0
    memory_bytes: int = 0
    note: str = ""

    @property
    def samplers(self) -> tuple[str, ...]:
        """The samplers that a request may name."""
        return SAMPLERS_OF.get(self.family, SAMPLERS)

    @property
    def whole(self) -> bool:
        """Whether it draws a picture in one call: a pass then takes all the steps of rows that ask for as many."""
        return self.family == "diffusers"

    @property
    def fit(self) -> FitKey:
        """What its passes cost, at its defaults."""
        return (
            FitKey(self.name, self.default_steps, self.guidance_scale > 1)
            if self.whole
            else FitKey(self.name)
        )

    @property
    def default_size(self) -> tuple[int, int]:
        return self.sizes[0]

    def crop(self, seed: int) -> tuple[int, int]:
        """The corner (top, left) that a seed chooses. A model that was taught it moves things to the other side."""
        draw = random.Random(seed).random
        top, left = (self.crops[int(draw() * len(self.crops))] for _ in range(2))
        return top, left

    def check_steps(self, steps: int, field: str = "steps") -> None:
        """Raise InvalidRequest, naming `field`, for a step count that this model is not sampled in."""
        if self.only_steps and steps not in self.only_steps:
            raise InvalidRequest(
                f"{field} must be {' or '.join(map(str, self.only_steps))} for {self.name}", field
            )
        if not 1 <= steps <= self.max_steps:
            raise InvalidRequest(f"{field} must be from 1 to {self.max_steps}", field)

    @property
    def extras(self) -> tuple[FileSpec, ...]:
        """What is fetched and read beside the source."""
        return (*([self.unet] if self.unet else []), *self.loras, *(each.weights for each in self.controls))

    @property
    def is_local(self) -> bool:
        """Whether the source is a path, which is always absolute here, and no hub id."""
        return Path(self.source).is_absolute()

    @property
    def at(self) -> str:
        """The source and, where one is pinned, its revision."""
        return f"{self.source}@{self.revision}" if self.revision else self.source


@dataclass(frozen=True, slots=True)
class VaeSpec:
    """A VAE that serves every model of `family`. `kind` is "full" (fp16-safe) or "tiny" (fast, near enough)."""

    name: str
    source: str
    family: str
    kind: str
    licence: Licence
    revision: str | None = None
    download_bytes: int = 0
