"""What can be switched on the way from weights to pictures, and what each device gets unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from onestroke.errors import ModelError

Switch = Literal["auto", "on", "off"]
Compile = Literal["auto", "off", "regional", "full"]
Attention = Literal["auto", "flash", "cudnn", "efficient", "math", "xformers"]
DecoderChoice = Literal["auto", "full", "tiny"]
Quantize = Literal["off", "fp8"]


@dataclass(frozen=True, slots=True)
class Levers:
    """Every switch; "auto" (0 for `prompt_cache`) is filled in for the device by `resolved`.

    `compile`: torch.compile of the repeated blocks or of whole networks. `graphs`: one CUDA graph for each verb and
    bucket. `fuse`: query, key and value of self-attention in one product. `encode_kv`: the keys and values that
    the UNet makes of a prompt are made when the prompt is encoded, and cached with it. `attention`: the kernel
    behind it, "auto" being torch's own choice on the CPU and a measurement on CUDA. `decoder`: "auto" follows the
    request (tiny while people type). `prompt_cache`: bytes of encoded prompts kept, in MiB. `cache_dir`: where
    compiled artifacts are kept; empty: the user's cache folder.
    """

    compile: Compile = "auto"
    graphs: Switch = "auto"
    fuse: Switch = "auto"
    channels_last: Switch = "auto"
    encode_kv: Switch = "auto"
    attention: Attention = "auto"
    decoder: DecoderChoice = "auto"
    quantize: Quantize = "off"
    prompt_cache: int = 0
    cache_dir: str = ""


AUTO = Levers()
"""Nothing asked for."""

_ELSEWHERE: dict[str, Any] = {
    "compile": "off",
    "graphs": "off",
    "fuse": "off",
    "channels_last": "on",
    "encode_kv": "off",
    "prompt_cache": 64,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": _ELSEWHERE,
    "mps": _ELSEWHERE,
    "cuda": {
        "compile": "regional",
        "graphs": "on",
        "fuse": "on",
        "channels_last": "on",
        "encode_kv": "on",
        "prompt_cache": 2048,
    },
}
"""What "auto" stands for, by device type. CUDA's row is a plan, not yet measured."""


PLAIN: dict[str, tuple[Any, ...]] = {
    "compile": ("auto", "off"),
    "graphs": ("auto", "off"),
    "fuse": ("auto", "off"),
    "encode_kv": ("auto", "off"),
    "attention": ("auto",),
    "decoder": ("auto", "full"),
    "quantize": ("off",),
}
"""What may be asked for a model that runs as diffusers wrote it."""


def check_plain(levers: Levers, name: str) -> None:
    """Raise ModelError for a lever that the model called `name` does not have, running as diffusers wrote it."""
    for lever, values in PLAIN.items():
        if (asked := getattr(levers, lever)) not in values:
            flag = "--" + lever.replace("_", "-")
            raise ModelError(f"{name} has no {flag} {asked}: give {' or '.join(values)}")


def resolved(levers: Levers, device: str) -> Levers:
    """`levers` with the defaults of `device` (its type: cpu, cuda, mps) where nothing was asked for."""
    asked = {field.name: getattr(levers, field.name) for field in fields(levers)}
    return replace(
        levers, **{name: value for name, value in DEFAULTS[device].items() if asked[name] in ("auto", 0)}
    )
