"""Diffusers folders as lists of names: which files a model needs, and what is wrong with a folder that lacks them.

The same choice is made over a folder on disk, a snapshot in the hub's cache and a listing from the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from onestroke.errors import ModelError
from onestroke.models.specs import FileSpec, ModelSpec, VaeSpec

PIPELINES = {
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "AmusedPipeline": "muse",
}
"""The pipelines that are served step by step, and their families; any other is of the family "diffusers"."""
OTHER_INPUTS = ("Img2Img", "Inpaint", "ControlNet", "Upscale", "Pix2Pix", "Edit", "Video", "Audio", "3D")
"""Parts of the names of pipelines that want more than a text, or make something else than a picture."""
LIBRARIES = ("diffusers", "transformers")
"""Where the parts of a pipeline may come from."""
TEXT_ENCODERS = {
    "sdxl": ("text_encoder", "text_encoder_2"),
    "sd": ("text_encoder",),
    "muse": ("text_encoder",),
}
TOKENIZERS = {"sdxl": ("tokenizer", "tokenizer_2"), "sd": ("tokenizer",), "muse": ("tokenizer",)}
NETWORKS = {"muse": ("transformer", "vqvae")}
"""What draws, and what makes pixels of it."""
SUPER_RESOLUTION = "super_resolution"
"""The part of a Muse folder that draws the large picture, where it has one."""

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
OF_TRANSFORMERS = ("text_encoder", "image_encoder", "safety_checker")
"""Parts whose weights are called as transformers calls them."""
_SMALL = (".json", ".txt", ".model", ".jinja")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


class Weights(NamedTuple):
    """A component's files, relative to the model's folder, and the variant that they are of."""

    files: tuple[str, ...]
    variant: str | None


def check_not_pickled(name: str) -> None:
    """Raise ModelError for a file whose format can run code when it is read."""
    if name.endswith(PICKLED):
        raise ModelError(
            f"{name} is a pickled checkpoint, which can run code when it is read: only .safetensors files are. "
            "Most models are published as .safetensors too; take that one"
        )


def components(family: str, names: Collection[str] = ()) -> tuple[str, ...]:
    """The parts that hold weights: what draws first, what makes pixels of it last.

    `names` are a folder's files; they say whether it has the part that is optional.
    """
    network, decoder = NETWORKS.get(family, ("unet", "vae"))
    more = (SUPER_RESOLUTION,) if family == "muse" and f"{SUPER_RESOLUTION}/config.json" in names else ()
    return (network, *more, *TEXT_ENCODERS[family], decoder)


def own_parts(spec: ModelSpec, names: Collection[str]) -> tuple[str, ...]:
    """The parts whose weights are the source's own, of whose files `names` are."""
    if spec.family == "diffusers":
        return tuple(
            sorted(name.partition("/")[0] for name in names if re.fullmatch(r"[^/]+/config\.json", name))
        )
    return tuple(part for part in components(spec.family, names) if not (part == "unet" and spec.unet))


def weights_of(names: Collection[str], part: str, variant: str | None) -> Weights:
    """The safetensors files of `part` (a folder's name; "" for the root) among `names`.

    `variant` is taken where it is there, then the plain files, fp16, bf16. Raises ModelError where there are none.
    """
    folder = f"{part}/" if part else ""
    stem = "model" if part.startswith(OF_TRANSFORMERS) else "diffusion_pytorch_model"
    for wanted in dict.fromkeys((variant, None, "fp16", "bf16")):
        dot = f".{wanted}" if wanted else ""
        if (single := f"{folder}{stem}{dot}.safetensors") in names:
            return Weights((single,), wanted)
        index = f"{folder}{stem}.safetensors.index{dot}.json"
        shard = re.compile(rf"{re.escape(folder + stem + dot)}-\d+-of-\d+\.safetensors")
        shards = sorted(name for name in names if shard.fullmatch(name))
        if index in names and shards:
            _check_shards(shards)
            return Weights((index, *shards), wanted)
    for name in names:
        if name.startswith(folder):
            check_not_pickled(name)
    raise ModelError(f"{part or 'the folder'} has no weights: {folder}{stem}.safetensors is missing")


def _check_shards(shards: list[str]) -> None:
    total = int(shards[0].rpartition("-of-")[2].partition(".")[0])
    if len(shards) != total:
        raise ModelError(f"only {len(shards)} of {total} shards are there ({shards[0]}, ...): get the others")


def files_of(spec: ModelSpec | VaeSpec | FileSpec, names: Collection[str]) -> list[str]:
    """What is needed of `names` to load `spec`, small files first. Raises ModelError for what is missing."""
    if isinstance(spec, FileSpec) and spec.file:
        check_not_pickled(spec.file)
        if spec.file not in names:
            raise ModelError(f"{spec.file} is missing: check its name")
        return [spec.file]
    if not isinstance(spec, ModelSpec):
        return [_needed(names, "config.json"), *weights_of(names, "", getattr(spec, "variant", None)).files]
    weights = [
        file for part in own_parts(spec, names) for file in weights_of(names, part, spec.variant).files
    ]
    if spec.family == "diffusers":
        small = [
            name for name in names if name.count("/") == 1 and name.endswith(_SMALL) and name not in weights
        ]
        return [_needed(names, INDEX), *sorted(small), *weights]
    parts = components(spec.family, names)
    tokenizers = [
        f"{part}/{name}"
        for part in TOKENIZERS[spec.family]
        for name in _TOKENIZER_FILES
        if f"{part}/{name}" in names
    ]
    small = [
        _needed(names, INDEX),
        _needed(names, SCHEDULER),
        *(_needed(names, f"{part}/config.json") for part in parts),
    ]
    return [*small, *tokenizers, *weights]


def _needed(names: Collection[str], name: str) -> str:
    if name not in names:
        raise ModelError(f"{name} is missing: it is not a whole diffusers folder")
    return name


def names_in(folder: Path) -> set[str]:
    """Every file in and below `folder`, relative to it, with forward slashes."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError that names the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; get this file again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object: get this file again")
    return found


def family_of(index: dict[str, Any], where: str) -> str:
    """The family of a model_index.json. Raises ModelError for a pipeline that is not served."""
    name = index.get("_class_name")
    if name in PIPELINES:
        return PIPELINES[name]
    if (
        not isinstance(name, str)
        or not name.endswith("Pipeline")
        or any(word in name for word in OTHER_INPUTS)
    ):
        raise ModelError(
            f"{where} holds a {name}; what is served: {', '.join(PIPELINES)}, and other pipelines of diffusers "
            "that draw from a text alone"
        )
    parts_of(index)
    return "diffusers"


def parts_of(index: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """The library and the class of each part that a model_index.json names, None for one that it leaves out.

    Raises ModelError for parts of other libraries: no code comes from a checkpoint.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list):
            continue
        library, name = value if len(value) == 2 else (value, None)
        if library is None:
            found[part] = ("", None)
        elif library in LIBRARIES and isinstance(name, str):
            found[part] = (library, name)
        else:
            raise ModelError(
                f"its {part} is a {name} of {library!r}: only parts of {' and '.join(LIBRARIES)} are read, and no "
                "code comes from a checkpoint"
            )
    return found
