"""LoRA files: low-rank updates of a UNet's and its text encoders' weights, renamed by diffusers' own conversion.

diffusers' and peft's names are taken, and kohya's, which AUTOMATIC1111 made common. What is not understood is
refused by its key: an adapter of which a part is left out draws something else.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import SafetensorError
from safetensors.torch import load_file

from onestroke.errors import ModelError
from onestroke.models.catalog import LORA_FILE
from onestroke.models.checkpoints import read_header

PARTS = ("unet", "text_encoder", "text_encoder_2")
DORA = ("dora_scale", "lora_magnitude_vector")

Tensors = dict[str, torch.Tensor]


class Factors(NamedTuple):
    """up @ down is added to a layer's weight: `down` (rank, in, ...), `up` (out, rank, ...) with its alpha."""

    down: torch.Tensor
    up: torch.Tensor

    def fits(self, shape: torch.Size) -> bool:
        return len(self.up) == shape[0] and self.down[0].numel() == shape[1:].numel()

    def delta(self, shape: torch.Size) -> torch.Tensor:
        """The update of a weight of `shape`, in fp32."""
        return (self.up.float().flatten(1) @ self.down.float().flatten(1)).view(shape)

    def among(self, rows: int, start: int) -> Factors:
        """The same for a layer of `rows` outputs, of which the first `start` and the last are others'."""
        up = self.up.new_zeros(rows, *self.up.shape[1:])
        up[start : start + len(self.up)] = self.up
        return Factors(self.down, up)

    def to(self, device: torch.device) -> Factors:
        return Factors(self.down.to(device), self.up.to(device))


Lora = dict[str, dict[str, Factors]]
"""By part (see PARTS) and by the module's name in diffusers."""


def lora_file(place: Path) -> Path:
    """The LoRA's file in a folder; a file as it is. Raises ModelError."""
    if not place.is_dir():
        return place
    files = sorted(place.glob("*.safetensors"))
    named = [file for file in files if file.name == LORA_FILE]
    if len(named or files) != 1:
        raise ModelError(f"{place} holds {len(files)} .safetensors files: name one of them")
    return (named or files)[0]


def read_lora(path: Path, unet_config: Any) -> Lora:
    """The LoRA in the file `path`, for UNets of `unet_config`. Raises ModelError for what is none."""
    header = read_header(path)
    try:
        if dora := next((key for key in header.tensors if any(part in key for part in DORA)), None):
            raise ModelError(f"it is a DoRA ({dora}): plain LoRAs are served")
        tensors = _scaled(load_file(path))
        keys = set(tensors)
        named, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(tensors, unet_config=unet_config)
        if len(named) != len(keys):
            raise ModelError("its keys follow two layouts at a time")
        metadata = json.loads(header.metadata.get(LORA_ADAPTER_METADATA_KEY) or "{}")
        found = {part: _factors(part, _of(part, named), metadata) for part in PARTS}
    except ModelError as error:
        raise ModelError(f"{path} cannot be served: {error.message}") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{path} cannot be read as a LoRA: {_first_words(error)}") from error
    known = sum(2 * len(modules) for modules in found.values())
    if known != len(named):
        unknown = next(key for key in named if not key.startswith(tuple(f"{part}." for part in PARTS)))
        raise ModelError(f"{path} cannot be served: it has the key {unknown}, which is not understood")
    return {part: modules for part, modules in found.items() if modules}


def _scaled(tensors: Tensors) -> Tensors:
    """kohya's layout with each module's alpha / rank multiplied into its `lora_up`."""
    for key in [key for key in tensors if key.endswith(".alpha")]:
        name = key.removesuffix(".alpha")
        up, down = f"{name}.lora_up.weight", f"{name}.lora_down.weight"
        if up in tensors and down in tensors:
            tensors[up] = tensors[up].float() * (float(tensors.pop(key)) / len(tensors[down]))
    return tensors


def _of(part: str, named: Tensors) -> Tensors:
    """The part's own keys in peft's layout, as diffusers' loaders convert them."""
    own = {key.removeprefix(f"{part}."): value for key, value in named.items() if key.startswith(f"{part}.")}
    if not own:
        return {}
    if part != "unet":
        converted: Tensors = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
        return converted
    return own if "lora_A" in next(iter(own)) else dict(convert_unet_state_dict_to_peft(own))


def _factors(part: str, own: Tensors, metadata: Mapping[str, Any]) -> dict[str, Factors]:
    """Raises ModelError for a key that is neither factor of a module, or is alone."""
    pairs: dict[str, Tensors] = defaultdict(dict)
    for key, value in own.items():
        module, mark, which = key.rpartition(".lora_")
        if not mark or which not in ("A.weight", "B.weight"):
            raise ModelError(f"it has the key {part}.{key}, which is not understood")
        pairs[module][which] = value
    if alone := next((module for module, pair in pairs.items() if len(pair) != 2), None):
        raise ModelError(f"it has only one factor of {part}.{alone}")
    return {
        module: Factors(
            pair["A.weight"], pair["B.weight"] * _scaling(part, module, len(pair["A.weight"]), metadata)
        )
        for module, pair in pairs.items()
    }


def _scaling(part: str, module: str, rank: int, metadata: Mapping[str, Any]) -> float:
    """alpha / rank by what peft has written into the file's metadata; 1 where there is none."""
    alpha = metadata.get(f"{part}.lora_alpha", rank)
    for pattern, value in (metadata.get(f"{part}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
    return float(alpha / (rank**0.5 if metadata.get(f"{part}.use_rslora") else rank))


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
