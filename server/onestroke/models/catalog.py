"""Models as data: what each is, where it comes from, how it is sampled, and what its licence allows."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from onestroke.errors import ModelError

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"

SAMPLERS = ("euler", "euler_ancestral", "ddim", "lcm", "tcd")
"""Samplers that a request may name; each is a table read off diffusers' scheduler of that name."""


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
class ModelSpec:
    """One row of the catalog.

    `source` is a diffusers folder or a hub id. `timesteps` maps a step count to the timesteps it must use
    where the sampler's own spacing is not the recipe. `sizes` lists (width, height) pairs; the first is the
    default. `crops` are the corners, in pixels down and to the right, that a seed chooses from (see `crop`).
    `dtype` is "auto" where the worker shall pick the fastest safe one for its device.
    """

    name: str
    source: str
    family: str
    description: str
    licence: Licence
    sampler: str = "euler_ancestral"
    timestep_spacing: str = "trailing"
    default_steps: int = 1
    max_steps: int = 50
    guidance_scale: float = 0.0
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    crops: tuple[int, ...] = (0,)
    dtype: str = "auto"
    variant: str | None = None
    timesteps: tuple[tuple[int, tuple[int, ...]], ...] = ()
    download_bytes: int = 0

    @property
    def default_size(self) -> tuple[int, int]:
        return self.sizes[0]

    def crop(self, seed: int) -> tuple[int, int]:
        """The corner (top, left) that a seed chooses. A model that was taught it moves things to the other side."""
        draw = random.Random(seed).random
        top, left = (self.crops[int(draw() * len(self.crops))] for _ in range(2))
        return top, left

    @property
    def is_local(self) -> bool:
        return Path(self.source).is_dir()


CATALOG: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="embedded",
            source=str(EMBEDDED_FOLDER),
            family="sdxl",
            description="Onestroke's own small model: emoji-like things on coloured backgrounds, one step, any CPU",
            licence=Licence("Apache-2.0", commercial=True, url="https://www.apache.org/licenses/LICENSE-2.0"),
            max_steps=8,
        ),
        ModelSpec(
            name="sdxl-turbo",
            source="stabilityai/sdxl-turbo",
            family="sdxl",
            description="SDXL Turbo (ADD), 512x512 in 1-4 steps; wants a GPU",
            licence=Licence(
                "Stability AI non-commercial community licence",
                commercial=False,
                url="https://huggingface.co/stabilityai/sdxl-turbo",
            ),
            max_steps=8,
            variant="fp16",
            download_bytes=6_940_000_000,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to serve and, for the log, why it is this one."""

    spec: ModelSpec
    why: str


def choose(name: str) -> Choice:
    """`auto`: SDXL Turbo where there is an NVIDIA card and its weights are cached, else the embedded model.

    Gigabytes and non-commercial weights are never fetched unasked. Raises ModelError for an unknown name.
    """
    if name != "auto":
        return Choice(resolve(name), "asked for")
    turbo = CATALOG["sdxl-turbo"]
    if not has_nvidia_card():
        return Choice(CATALOG["embedded"], "no NVIDIA card here; --model NAME serves another")
    if is_cached(turbo):
        return Choice(turbo, "an NVIDIA card, and its weights are cached")
    gigabytes = turbo.download_bytes / 1e9
    return Choice(
        CATALOG["embedded"],
        f"SDXL Turbo's weights are not cached; --model sdxl-turbo downloads {gigabytes:.1f} GB "
        f"({turbo.licence.name}, {turbo.licence.terms})",
    )


def has_nvidia_card() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def is_cached(spec: ModelSpec) -> bool:
    """Whether the weights are on this machine."""
    if spec.is_local:
        return (Path(spec.source) / "model_index.json").is_file()
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(spec.source, "model_index.json"), str)


def resolve(name: str) -> ModelSpec:
    """The model that `name` (a catalog name or a diffusers folder) stands for.

    Raises ModelError when it is neither, and says what would work.
    """
    if spec := CATALOG.get(name):
        return spec
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder)
    if folder.is_file():
        raise ModelError(
            f"{name} is a file: single-file checkpoints are not served yet; give a diffusers folder"
        )
    known = ", ".join(CATALOG)
    raise ModelError(f"no model {name!r}: give one of {known}, or the path of a diffusers folder")


def _from_folder(folder: Path) -> ModelSpec:
    """A diffusers folder as a row: sampler and prediction come from the scheduler it names."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{folder} has no model_index.json: it is not a diffusers folder")
    try:
        pipeline = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{index} cannot be read: {error}") from error
    if pipeline != "StableDiffusionXLPipeline":
        raise ModelError(f"{folder} holds a {pipeline}; StableDiffusionXLPipeline is what is served today")
    base = CATALOG["embedded"]
    return replace(
        base,
        name=folder.name,
        source=str(folder.resolve()),
        description=f"the diffusers folder {folder.name}",
        licence=Licence("unknown", commercial=None),
        max_steps=50,
    )
