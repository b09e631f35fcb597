"""Adapters (LoRA): merged into a network's weights in place, wherever loading has put these, and taken out again.

A pass with adapters costs what one without costs: W = W0 + sum(scale * up @ down) is written where W0 was, so that
recorded graphs, compiled code, fused projections and keys and values made with the prompt stay valid. What W0 was
is kept, to the last bit, for the layers that an adapter has touched. The pass that wants another set than the one
before pays for the switch.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from onestroke.core import AdapterUse
from onestroke.errors import InvalidRequest, ModelError
from onestroke.pipelines.attention import KeysAndValues, ReadsItsPart
from onestroke.pipelines.fp8 import Fp8Linear
from onestroke.pipelines.layers import Conv, PackedLinear
from onestroke.pipelines.lora import Factors, Lora

QKV = ("to_q", "to_k", "to_v")
SPARE_BYTES = 1 << 30
"""Left free on a card by the weights that are kept for their restoring; else they are kept on the host."""

Merged = tuple[tuple[int, float], ...]
"""Adapters by number with their scales."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer's weight lies now: a module's, or (of fused ones) its rows from `start` to `stop`."""

    module: nn.Module
    start: int
    stop: int

    @property
    def shape(self) -> torch.Size:
        whole: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return torch.Size((self.stop - self.start, *whole.shape[1:]))

    @property
    def weight(self) -> torch.Tensor:
        """The rows themselves, in a layout that can be read; packed weights as a copy."""
        weight: torch.Tensor = self.module.weight  # type: ignore[assignment]
        return (weight.to_dense() if weight.is_mkldnn else weight.data)[self.start : self.stop]

    def save(self) -> torch.Tensor:
        """What `write` gives back to the last bit: a packed layer's weight as it is packed, a copy of any other."""
        return self.module.weight if self.is_packed else self.weight.clone()  # type: ignore[return-value]

    def write(self, weight: torch.Tensor) -> None:
        """In place, but for packed layers: they pack what they are given at their next call."""
        if self.is_packed:
            self.module.weight = weight
        else:
            self.weight.copy_(weight)

    @property
    def is_packed(self) -> bool:
        """Whether it is only to be had whole."""
        return isinstance(self.module, Conv | PackedLinear)


@dataclass(frozen=True, slots=True)
class _Adapter:
    """`number` is its own for good; names may be given again. `encodes`: it changes what a prompt is encoded to."""

    number: int
    updates: list[tuple[Place, Factors]]
    encodes: bool


class Adapters:
    """The adapters of one model. `add` and `remove` are for any thread, `use` for the one that owns the device."""

    def __init__(
        self, networks: Mapping[str, Any], keys_values: KeysAndValues | None, device: torch.device
    ) -> None:
        self._networks, self._keys_values, self._device = networks, keys_values, device
        self._numbers = itertools.count(1)
        self._named: dict[str, _Adapter] = {}
        self._saved: dict[Place, torch.Tensor] = {}
        self._changed: set[Place] = set()
        self._merged: Merged | None = ()
        self.encoding: Merged = ()
        """What is merged now of those that change what prompts are encoded to."""

    @property
    def unet_config(self) -> Any:
        return self._networks["unet"].config

    def add(self, name: str, lora: Lora) -> None:
        """Raises ModelError where `lora` is for another model."""
        found = places(self._networks, lora, self._keys_values)
        text = [lora[part] for part in lora if part != "unet"]
        encodes = bool(text) or any(place.module is self._keys_values for place, _ in found)
        updates = [(place, factors.to(self._device)) for place, factors in found]
        self._named[name] = _Adapter(next(self._numbers), updates, encodes)

    def remove(self, name: str) -> None:
        self._named.pop(name, None)

    def check(self, wanted: Sequence[AdapterUse]) -> None:
        """Raises InvalidRequest for what is not there."""
        for name, _ in wanted:
            self._find(name)

    @torch.inference_mode()
    def use(self, wanted: Sequence[AdapterUse]) -> bool:
        """Merge these and no others; says whether anything had to be. Raises InvalidRequest for unknown ones."""
        chosen = [(self._find(name), scale) for name, scale in wanted]
        merged = tuple((adapter.number, scale) for adapter, scale in chosen)
        if merged == self._merged:
            return False
        updates: dict[Place, list[tuple[Factors, float]]] = defaultdict(list)
        for adapter, scale in chosen:
            for place, factors in adapter.updates:
                updates[place].append((factors, scale))
        self._merged = None  # whatever stops it half-way, the next call writes everything again
        self._save(updates)
        self._changed.update(updates)
        for place in self._changed:
            saved = self._saved[place]
            place.write(_sum(saved, updates[place], self._device) if place in updates else saved)
        self._merged, self._changed = merged, set(updates)
        self.encoding = tuple(
            each for each, (adapter, _) in zip(merged, chosen, strict=True) if adapter.encodes
        )
        return True

    def _find(self, name: str) -> _Adapter:
        if (found := self._named.get(name)) is None:
            raise InvalidRequest(f"there is no adapter {name!r} for this model", "adapters")
        return found

    def _save(self, places: Mapping[Place, Any]) -> None:
        """Keep what these hold before anything is merged into them."""
        new = [place for place in places if place not in self._saved]
        on_host = False
        if self._device.type == "cuda":
            needed = sum(place.weight.nbytes for place in new)  # no copies: nothing is packed on a card
            on_host = torch.cuda.mem_get_info(self._device)[0] < needed + SPARE_BYTES
        for place in new:
            self._saved[place] = place.save().cpu() if on_host else place.save()


def _sum(saved: torch.Tensor, updates: Sequence[tuple[Factors, float]], device: torch.device) -> torch.Tensor:
    weight = (saved.to_dense() if saved.is_mkldnn else saved).to(device)
    total = weight.float()
    for factors, scale in updates:
        total = total + scale * factors.delta(weight.shape)
    return total.to(weight.dtype)


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
            if place is None or not factors.fits(place.shape):
                what = f"{part}.{name} of {factors.down[0].numel()} to {len(factors.up)} features"
                here = f"here it has the shape {tuple(place.shape)}" if place else "there is none here"
                raise ModelError(f"it is made for another base model: it adapts {what}, and {here}")
            if place.is_packed:
                rows = len(place.module.weight)  # type: ignore[arg-type]
                place, factors = Place(place.module, 0, rows), factors.among(rows, place.start)
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
    if not hasattr(network, "text_model"):  # a level that CLIP has lost in transformers 5; as diffusers does
        name = name.removeprefix("text_model.")
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
