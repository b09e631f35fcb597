"""LoRA files with random factors, in the layouts that are published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RANK = 4
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
ADAPTED_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
KOHYA = {"unet": "lora_unet", "text_encoder_2": "lora_te2"}

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


def random_factors(
    network: Any, names: tuple[str, ...] = ADAPTED, *, seed: int = 0, strength: float = 0.3
) -> Factors:
    """(down, up) for each layer of `network` whose name ends in one of `names`; its update is `strength` of it."""
    random = torch.Generator().manual_seed(seed)
    found: Factors = {}
    for name, module in network.named_modules():
        if not name.endswith(names) or getattr(module, "weight", None) is None:
            continue
        weight = module.weight.detach()
        down = torch.randn(RANK, *weight.shape[1:], generator=random)
        up = torch.randn(len(weight), RANK, *(1,) * (weight.dim() - 2), generator=random)
        size = (up.flatten(1) @ down.flatten(1)).norm() / weight.norm()
        found[name] = (down, up * (strength / size))
    return found


def save_kohya(
    path: Path, parts: Mapping[str, Factors], *, alpha: float = 2.0, encoder: str = "lora_te1"
) -> Path:
    """As kohya's scripts write them: underscores in names, an alpha for each module. SD's `encoder` is lora_te."""
    tensors = {}
    for part, factors in parts.items():
        for name, (down, up) in factors.items():
            if part != "unet" and not name.startswith(("text_model.", "text_projection")):
                name = f"text_model.{name}"
            key = f"{KOHYA.get(part, encoder)}_{name.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = down.contiguous()
            tensors[f"{key}.lora_up.weight"] = (up * (RANK / alpha)).contiguous()
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def save_peft(path: Path, parts: Mapping[str, Factors], metadata: dict[str, str] | None = None) -> Path:
    """As diffusers' training scripts write them."""
    tensors = {
        f"{part}.{name}.lora_{which}.weight": factor.contiguous()
        for part, factors in parts.items()
        for name, pair in factors.items()
        for which, factor in zip("AB", pair, strict=True)
    }
    save_file(tensors, path, metadata)
    return path
