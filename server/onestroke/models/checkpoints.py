"""Single `.safetensors` files: what a header says is inside, and whether the file is whole.

Nothing is loaded here. A file starts with the length of a JSON header (eight bytes, little-endian) and the header:
names, dtypes, shapes and places of its tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from onestroke.errors import ModelError

_LARGEST_HEADER = 100_000_000
"""The format's own bound, in bytes."""


PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")
"""How torch's own files start: a zip archive, or a bare pickle."""


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class Header(NamedTuple):
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """An original (single-file) layout; `name` is its folder under `configs/`, which describes its parts.

    `marks` are tensors that tell it from the others, `recipe` and `turbo` the rows that it is sampled like.
    """

    name: str
    family: str
    description: str
    marks: tuple[str, ...]
    recipe: str
    turbo: str


LAYOUTS = (
    Layout(
        "sdxl",
        "sdxl",
        "an SDXL checkpoint",
        ("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."),
        "sdxl-base",
        "sdxl-turbo",
    ),
    Layout("sd21", "sd", "an SD 2.x checkpoint", ("cond_stage_model.model.",), "sd21", "sd-turbo"),
    Layout(
        "sd15", "sd", "an SD 1.x checkpoint", ("cond_stage_model.transformer.text_model.",), "sd15", "sd15"
    ),
)
UNET = "model.diffusion_model."
VAE = "first_stage_model."

OTHERS = (
    ("a LoRA", ("lora_unet_", "lora_te", ".lora_", "lora_A", "lora_B", ".hada_", ".lokr_")),
    ("a ControlNet", ("control_model.", "controlnet_cond_embedding.", "input_hint_block.")),
    ("an IP-Adapter", ("ip_adapter.", "image_proj.")),
    ("a textual inversion", ("emb_params", "string_to_param")),
    ("the SDXL refiner", ("conditioner.embedders.0.model.",)),
    ("an SD 3 model", ("joint_blocks.",)),
    ("a FLUX model", ("double_blocks.",)),
    ("a Stable Cascade model", ("clip_txt_mapper.", "channelwise.")),
    ("a motion module", ("motion_modules.",)),
    (
        "a UNet without text encoders and VAE",
        ("input_blocks.0.", "down_blocks.0.attentions", "down_blocks.0.resnets"),
    ),
    ("a VAE only", ("decoder.conv_in.", "decoder.conv_out.", "decoder.layers.")),
    ("a text encoder only", ("text_model.encoder.", "transformer.resblocks.")),
)
"""What a file may be instead, the first that fits: a name with any of these parts in it."""


@dataclass(frozen=True, slots=True)
class Recognised:
    layout: Layout
    recipe: str


def read_header(path: Path) -> Header:
    """The header of a safetensors file. Raises ModelError for a file that is cut short or is something else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _LARGEST_HEADER or start.startswith(PICKLES):
            raise ModelError(f"{path} is not a safetensors file: {_what_else(start)}")
        if size < 8 + length:
            raise ModelError(f"{path} is cut short within its header: get it again")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        tensors = {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{path} has a header that cannot be read ({error}): get it again") from error
    if size < end:
        raise ModelError(f"{path} is cut short: {size:,} of {end:,} bytes are there; get it again")
    return Header(tensors, metadata)


def _what_else(start: bytes) -> str:
    if start.startswith(PICKLES):
        return "it is a pickled checkpoint under another name, which can run code when it is read; it is not read"
    if start.startswith(b"version "):
        return "it is a Git LFS pointer; `git lfs pull` brings the file"
    return "it may be an error page that was saved under this name; get it again"


def recognise(path: Path) -> Recognised:
    """The layout of a whole model in one file, and the row that it is sampled like.

    Raises ModelError that says what the file is where it is not a text-to-image model of a layout that is served.
    """
    header = read_header(path)
    names = header.tensors
    layout = next((each for each in LAYOUTS if all(_has(names, mark) for mark in each.marks)), None)
    is_lora = any(part in name for name in names for part in OTHERS[0][1])
    if layout is None or is_lora or not _has(names, UNET) or _has(names, "control_model."):
        raise ModelError(
            f"{path} is {_kind(names)}; a whole SDXL, SD 2.1 or SD 1.5 model is what can be served"
        )
    first = names.get(f"{UNET}input_blocks.0.0.weight")
    if first is None or first.shape[1] != 4:
        channels = first.shape[1] if first else "no"
        raise ModelError(
            f"{path} is {layout.description} with {channels} input channels (inpainting or the like): only "
            "text-to-image is served"
        )
    if not _has(names, VAE):
        raise ModelError(f"{path} is {layout.description} without its VAE: take a file that has it")
    return Recognised(layout, _recipe(layout, path, header.metadata))


def _has(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _kind(names: Collection[str]) -> str:
    for kind, parts in OTHERS:
        if any(part in name for name in names for part in parts):
            return kind
    return f"none that is known (its tensors: {', '.join(sorted(names)[:3]) or 'none'})"


def _recipe(layout: Layout, path: Path, metadata: dict[str, str]) -> str:
    """From what the file says of itself (ModelSpec metadata) and from its name; the layout alone cannot tell."""
    words = f"{metadata.get('modelspec.title', '')} {path.stem}".lower()
    if "turbo" in words:
        return layout.turbo
    if layout.name == "sd21":
        said = metadata.get("modelspec.prediction_type", "")
        small = "512" in metadata.get("modelspec.resolution", "") or "512" in words
        if said.startswith("eps") or (small and not said.startswith("v")):
            return "sd21-base"
    return layout.recipe
