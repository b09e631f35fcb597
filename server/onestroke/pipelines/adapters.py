"""Adapters (LoRA) merged into a network's weights, wherever loading has put these."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from onestroke.errors import ModelError
from onestroke.pipelines.attention import KeysAndValues, ReadsItsPart
from onestroke.pipelines.fp8 import Fp8Linear
from onestroke.pipelines.layers import Conv, PackedLinear
from onestroke.pipelines.lora import Factors, Lora

QKV = ("to_q", "to_k", "to_v")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer's weight lies now: a module's, or (of fused ones) its rows from `start` to `stop`."""

    module: nn.Module
    start: int
    stop: int

    @property
    def weight(self) -> torch.Tensor:
        """The rows themselves, in a layout that can be read; packed weights as a copy."""
        weight: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return (weight.to_dense() if weight.is_mkldnn else weight.data)[self.start : self.stop]

    def save(self) -> torch.Tensor:
        """What `write` gives back to the last bit: a packed layer's weight as it is packed, a copy of any other."""
        return self.module.weight if self._is_packed else self.weight.clone()  # type: ignore[return-value]

    def write(self, weight: torch.Tensor) -> None:
        """In place, but for packed layers: they pack what they are given at their next call."""
        if self._is_packed:
            self.module.weight = weight
        else:
            self.weight.copy_(weight)

    @property
    def _is_packed(self) -> bool:
        return isinstance(self.module, Conv | PackedLinear)


def merge(networks: Mapping[str, Any], lora: Lora) -> None:
    """Add `lora` to the weights of `networks` (by part) for good. Raises ModelError where it does not fit."""
    for place, factors in places(networks, lora):
        weight = place.weight
        place.write((weight.float() + factors.delta(weight.shape)).to(weight.dtype))


def places(
    networks: Mapping[str, Any], lora: Lora, keys_values: KeysAndValues | None = None
) -> list[tuple[Place, Factors]]:
    """Where each of `lora`'s updates belongs. Raises ModelError where it is for another model."""
    found = []
    for part, modules in lora.items():
        network = networks.get(part)
        for name, factors in modules.items():
            if network is not None and _is_left_out(network, name):
                continue
            place = None if network is None else _place(network, name, keys_values)
            if place is None or not factors.fits(place.weight.shape):
                what = f"{part}.{name} of {factors.down[0].numel()} to {len(factors.up)} features"
                here = (
                    "there is none here"
                    if place is None
                    else f"here it has the shape {tuple(place.weight.shape)}"
                )
                raise ModelError(f"it is made for another base model: it adapts {what}, and {here}")
            found.append((place, factors))
    return found


def _is_left_out(network: Any, name: str) -> bool:
    """Whether it is the layer that `text.without_last_layer` drops: nothing reads it."""
    layer = re.match(r"(?:text_model\.)?encoder\.layers\.(\d+)\.", name)
    if layer is None or not hasattr(network, "encoder"):
        return False
    return len(network.encoder.layers) <= int(layer[1]) < int(network.config.num_hidden_layers)


def _place(network: Any, name: str, keys_values: KeysAndValues | None) -> Place | None:
    """None where `network` has no layer of that name with a weight."""
    if not hasattr(network, "text_model"):
        name = name.removeprefix(
            "text_model."
        )  # as diffusers does: a CLIP has lost this level in transformers 5
    *path, last = name.split(".")
    parent, part = network, None
    for step in path:
        if isinstance(parent, ReadsItsPart):
            part, parent = parent, parent.block
        parent = getattr(parent, step, None)
    if (layer := getattr(parent, last, None)) is not None:
        if isinstance(layer, Fp8Linear):
            raise ModelError("layers in eight bits take no adapters: use --quantize off")
        whole = getattr(layer, "weight", None)
        return None if whole is None else Place(layer, 0, len(whole))
    if last in QKV and hasattr(parent, "to_qkv"):
        third = len(parent.to_qkv.weight) // 3
        return Place(parent.to_qkv, QKV.index(last) * third, (QKV.index(last) + 1) * third)
    if last in QKV[1:] and part is not None and keys_values is not None:
        half = (part.stop - part.start) // 2
        start = part.start + (QKV.index(last) - 1) * half
        return Place(keys_values, start, start + half)
    return None
