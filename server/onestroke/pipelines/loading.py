"""From a catalog row to a pipeline on a device. `parts` reads the files, `assemble` makes the verbs of them."""

from __future__ import annotations

from typing import Any

import torch

from onestroke.errors import ModelError
from onestroke.models.catalog import ModelSpec
from onestroke.pipelines.decoder import Decoder, safe_dtype
from onestroke.pipelines.layers import has_bf16, specialise
from onestroke.pipelines.memory import check_device_memory
from onestroke.pipelines.parts import Parts, read_parts
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.rows import Progress
from onestroke.pipelines.samplers import scheduler_key
from onestroke.pipelines.text import TextEncoder, without_last_layer
from onestroke.pipelines.unet import Denoiser

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TEXT_BUCKETS = {"cpu": 2}
"""Prompts encoded at a time, by device, 4 elsewhere (not measured there). On the CPU a model of the embedded
one's size takes 3.2, 3.8, 5.5 and 8.7 ms for one new prompt and 23, 15, 11 and 8.7 ms for eight in buckets of 1, 2,
4 and 8; beside 40 ms for one whole picture and 250 for eight, two is within 3% of the best at either end."""
CACHE_BYTES = 64 << 20


def load(
    spec: ModelSpec,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    max_batch: int = 8,
    progress: Progress = lambda stage, fraction: None,
) -> Pipeline:
    """Load `spec` for `device` (auto, cpu, cuda, mps) in `dtype` (auto, float32, float16, bfloat16).

    `threads` is torch's thread count for the whole process, None for its default. `max_batch` is the most
    UNet rows in one step. Raises ModelError when the model cannot be loaded, and says why.
    """
    if max_batch < 1:
        raise ModelError(f"max_batch must be at least 1, not {max_batch}")
    if threads is not None:
        torch.set_num_threads(threads)
    where = pick_device(device)
    kind = pick_dtype(spec.dtype if dtype == "auto" else dtype, where)
    progress(f"loading {spec.name}", 0.0)
    parts = read_parts(spec, kind, progress)
    check_device_memory(spec.name, (parts.unet, parts.vae, *parts.text_encoders), where)
    progress(f"moving {spec.name} to {where}", 1.0)
    try:
        pipeline = assemble(spec, parts, where, kind, max_batch)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{spec.name} does not fit into the memory of {where}") from error
    progress(f"loaded {spec.name}", 1.0)
    return pipeline


def pick_device(name: str) -> torch.device:
    """CUDA before MPS before the CPU for "auto". Raises ModelError for a device that is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"no device {name!r}: give auto, cpu, cuda or mps") from error
    if not available.get(device.type):
        raise ModelError(f"no {name} device on this machine")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called `name`; for "auto" the fastest safe one of `device`.

    On a CPU that is bf16 where it has instructions for it (it then runs twice as fast as fp32), else fp32.
    """
    if name != "auto":
        if name not in DTYPES:
            raise ModelError(f"no dtype {name!r}: give auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    if device.type != "cpu":
        return torch.float16
    return torch.bfloat16 if has_bf16() else torch.float32


def power_buckets(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `largest`, which is the last bucket whether or not it is a power of two."""
    below = [2**i for i in range(largest.bit_length()) if 2**i < largest]
    return (*below, largest)


def assemble(
    spec: ModelSpec, parts: Parts, device: torch.device, dtype: torch.dtype, max_batch: int
) -> Pipeline:
    """The verbs over `parts`, moved to `device`."""
    unet = parts.unet.to(device, memory_format=torch.channels_last).eval()
    specialise(unet)
    decode_dtype = safe_dtype(parts.vae, dtype, device)
    vae = parts.vae.to(device, memory_format=torch.channels_last).eval()
    if decode_dtype is not dtype:
        vae = vae.to(decode_dtype)
    first, *others = parts.text_encoders
    reads: tuple[int | None, ...] = (None,)
    if others:
        first, read = without_last_layer(first)
        reads = (read, -2)
    encoders = [encoder.to(device).eval() for encoder in (first, *others)]
    for encoder in encoders:
        specialise(encoder)
    text = TextEncoder(
        parts.tokenizers,
        encoders,
        reads=reads,
        bucket=TEXT_BUCKETS.get(device.type, 4),
        cache_bytes=CACHE_BYTES,
    )
    return Pipeline(
        spec,
        text,
        Denoiser(unet, buckets=power_buckets(max_batch), device=device, dtype=dtype),
        Decoder(vae, device=device, dtype=decode_dtype),
        scheduler=scheduler_key(parts.scheduler),
        zero_negative=bool(others) and bool(parts.options.get("force_zeros_for_empty_prompt", True)),
        vae_scale=vae_scale(parts.vae),
    )


def vae_scale(vae: Any) -> int:
    """Pixels per latent, as diffusers' pipelines compute it."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))
