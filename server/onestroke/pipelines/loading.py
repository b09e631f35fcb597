"""From a catalog row to a pipeline on a device. `parts` reads the files, `assemble` makes the verbs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderTiny

from onestroke.errors import ModelError
from onestroke.levers import AUTO, Levers, resolved
from onestroke.models import hub
from onestroke.models.choosing import vae_of
from onestroke.models.specs import ModelSpec, VaeSpec
from onestroke.pipelines import attention
from onestroke.pipelines.adapters import Adapters
from onestroke.pipelines.control import ControlNet
from onestroke.pipelines.decoder import Decoder, safe_dtype
from onestroke.pipelines.encoder import PictureEncoder
from onestroke.pipelines.fp8 import quantise
from onestroke.pipelines.graphs import CudaGraphs
from onestroke.pipelines.layers import has_bf16, specialise
from onestroke.pipelines.memory import check_together, moving
from onestroke.pipelines.parts import Parts, memory_needed, read_parts, read_vae
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.rows import Progress
from onestroke.pipelines.samplers import scheduler_key
from onestroke.pipelines.text import TextEncoder, without_last_layer
from onestroke.pipelines.unet import Denoiser

if TYPE_CHECKING:
    from onestroke.pipelines.generic.pipeline import WholePipeline
    from onestroke.pipelines.muse.pipeline import MusePipeline

    AnyPipeline = Pipeline | MusePipeline | WholePipeline

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TEXT_BUCKETS = {"cpu": 2}
"""Prompts encoded at a time, by device, 4 elsewhere (not measured there). On the CPU a model of the embedded
one's size takes 3.2, 3.8, 5.5 and 8.7 ms for one new prompt and 23, 15, 11 and 8.7 ms for eight in buckets of 1, 2,
4 and 8; beside 40 ms for one whole picture and 250 for eight, two is within 3% of the best at either end."""
UNPADDED = 8
"""Up to this size a CPU's batches may run without padding; each size more takes some 0.2 s of the warm-up."""
TINY = "vae_tiny"
"""Subfolder of a model on this machine that holds a tiny VAE beside its own."""


def load_all(
    specs: Sequence[ModelSpec],
    *,
    device: str = "auto",
    dtype: str = "auto",
    levers: Levers = AUTO,
    progress: Progress = lambda stage, fraction: None,
    **options: Any,
) -> dict[str, AnyPipeline]:
    """`load` for each of `specs`, by name, on one device; they share what `levers` give to encoded prompts.

    Before anything is read, the sum of what they need is held against the memory that is free. Raises ModelError
    that names the model which cannot be loaded, or the first that is too much.
    """
    where = pick_device(device)
    loaded: dict[str, AnyPipeline] = {}
    if len(specs) > 1:
        needs = {spec.name: memory_needed(spec, _dtype_of(spec, dtype, where)) for spec in specs}
        check_together(needs, where)
        shared = resolved(levers, where.type).prompt_cache // len(specs)
        levers = replace(levers, prompt_cache=max(1, shared))
    for done, spec in enumerate(specs):

        def part(stage: str, fraction: float, done: int = done) -> None:
            progress(stage, (done + fraction) / len(specs))

        try:
            loaded[spec.name] = load(
                spec, device=device, dtype=dtype, levers=levers, progress=part, **options
            )
        except ModelError as error:
            named = spec.name in error.message
            raise ModelError(error.message if named else f"{spec.name}: {error.message}") from error
    return loaded


def _dtype_of(spec: ModelSpec, asked: str, device: torch.device) -> torch.dtype:
    """As asked, else as the row says it. What is neither was trained in bf16 where a pipeline draws it whole."""
    if asked == "auto" and spec.whole and device.type == "cuda":
        asked = "bfloat16"
    return pick_dtype(spec.dtype if asked == "auto" else asked, device)


def load(
    spec: ModelSpec,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    max_batch: int = 8,
    levers: Levers = AUTO,
    parts: Parts | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> AnyPipeline:
    """Load `spec` for `device` (auto, cpu, cuda, mps) in `dtype` (auto, float32, float16, bfloat16).

    `levers` are the switches of `onestroke.levers`; compiling and recording wait for the warm-up. `threads` is
    torch's thread count for the whole process, None for its default. `max_batch` is the most UNet rows in one
    step. `parts` in memory are taken, and used up, instead of reading those of `spec`. Raises ModelError when the
    model cannot be loaded, and says why.
    """
    if max_batch < 1:
        raise ModelError(f"max_batch must be at least 1, not {max_batch}")
    if threads is not None:
        torch.set_num_threads(threads)
    where = pick_device(device)
    kind = _dtype_of(spec, dtype, where)
    if where.type == "cuda":
        where = torch.device("cuda", where.index or 0)
        torch.cuda.set_device(where)
        torch.backends.cudnn.benchmark = True
    progress(f"loading {spec.name}", 0.0)
    if spec.family == "muse":
        from onestroke.pipelines.muse.loading import load as load_muse  # late: the others need none of it

        return load_muse(spec, where, kind, max_batch, levers, progress)
    if spec.family == "diffusers":
        from onestroke.pipelines.generic.loading import load as load_whole

        return load_whole(spec, where, kind, max_batch, levers, progress)
    levers = resolved(levers, where.type)
    parts = parts or read_parts(spec, kind, progress)
    tiny = read_tiny(spec, parts.vae, levers.decoder, kind, progress)
    if parts.controls:
        levers = replace(levers, encode_kv="off")  # they read the text itself
    networks = (
        parts.unet,
        parts.vae,
        *parts.text_encoders,
        *parts.controls.values(),
        *([tiny] if tiny is not None else []),
    )
    with moving(spec.name, networks, where, progress):
        return assemble(spec, parts, where, kind, max_batch, levers, tiny)


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


def step_buckets(
    largest: int, device: torch.device, dtype: torch.dtype, levers: Levers, threads: int
) -> tuple[int, ...]:
    """The UNet's batch sizes: they double, to be few where each has to be recorded or compiled.

    On a CPU padding costs (five of the embedded model's rows take 0.58 of the time of eight), so there are more of
    them: small ones that give each thread whole rows, since one that two threads share is rounded by where it
    stands. Beyond two threads, and beyond one in fp32, other operators round so too.
    """
    doubled = power_buckets(largest)
    whole_rows = threads <= (2 if dtype is torch.bfloat16 else 1)
    if device.type != "cpu" or levers.compile != "off" or not whole_rows:
        return doubled
    return tuple(sorted({*doubled, *range(threads, min(UNPADDED, largest) + 1, threads)}))


def read_tiny(
    spec: ModelSpec,
    vae: Any,
    decoder: str,
    dtype: torch.dtype,
    progress: Progress = lambda stage, fraction: None,
) -> Any:
    """The tiny VAE that draws beside `vae`, or in its place; None where there is to be none.

    `decoder` auto takes one that is on this machine: in the folder of a model that is, or in the hub's cache. tiny
    brings it here. Raises ModelError.
    """
    if decoder == "full" or isinstance(vae, AutoencoderTiny):
        return None
    beside = Path(spec.source) / TINY
    if spec.is_local and beside.is_dir():
        return read_vae(replace(spec, vae=str(beside)), dtype, progress)
    tiny = replace(spec, vae="tiny")
    named = vae_of(tiny)
    if decoder == "auto" and not (isinstance(named, VaeSpec) and hub.is_cached(named)):
        return None
    return read_vae(tiny, dtype, progress)


def assemble(
    spec: ModelSpec,
    parts: Parts,
    device: torch.device,
    dtype: torch.dtype,
    max_batch: int,
    levers: Levers,
    tiny: Any = None,
) -> Pipeline:
    """The verbs over `parts`, moved to `device`; `tiny` is a second VAE, `levers` are resolved."""
    memory_format = torch.channels_last if levers.channels_last == "on" else torch.contiguous_format
    recorder = CudaGraphs(device) if device.type == "cuda" and levers.graphs == "on" else None
    unet = parts.unet.to(device, memory_format=memory_format).eval()
    project = attention.rebuild(
        unet,
        fuse=levers.fuse == "on",
        encode_kv=levers.encode_kv == "on",
        xformers=levers.attention == "xformers",
    )
    if levers.quantize == "fp8":
        quantise(unet, device)
    first, *others = parts.text_encoders
    reads: tuple[int | None, ...] = (None,)
    if others:
        first, read = without_last_layer(first)
        reads = (read, -2)
    encoders = [encoder.to(device).eval() for encoder in (first, *others)]
    if levers.compile == "off":
        for network in (unet, *encoders, *parts.controls.values()):
            specialise(network)
    text = TextEncoder(
        parts.tokenizers,
        encoders,
        reads=reads,
        bucket=TEXT_BUCKETS.get(device.type, 4),
        cache_bytes=levers.prompt_cache << 20,
        recorder=recorder,
        project=project or _as_it_is,
        spelling=parts.spelling,
    )

    def decoder(vae: Any) -> Decoder:
        kind = safe_dtype(vae, dtype, device)
        if kind is not dtype:
            for part in filter(None, (vae.decoder, vae.post_quant_conv)):
                part.to(kind)
        return Decoder(vae, device=device, dtype=kind, memory_format=memory_format, recorder=recorder)

    buckets = step_buckets(max_batch, device, dtype, levers, torch.get_num_threads())
    controls = {
        name: ControlNet(
            net.to(device, memory_format=memory_format).eval(),
            buckets=buckets,
            device=device,
            dtype=dtype,
            memory_format=memory_format,
            recorder=recorder,
        )
        for name, net in parts.controls.items()
    }
    only_tiny = tiny is not None and levers.decoder == "tiny"
    reading = tiny if only_tiny else parts.vae
    for vae in (reading, *([tiny] if tiny is not None and not only_tiny else [])):
        vae.to(device, memory_format=memory_format).eval()
    encoder = PictureEncoder(reading, device=device, dtype=dtype, memory_format=memory_format)
    small = None if tiny is None else decoder(tiny)
    full = small if small and only_tiny else decoder(parts.vae)
    return Pipeline(
        spec,
        text,
        Denoiser(
            unet,
            buckets=buckets,
            device=device,
            dtype=dtype,
            memory_format=memory_format,
            recorder=recorder,
        ),
        {"full": full, "tiny": small or full},
        encoder,
        controls,
        scheduler=scheduler_key(parts.scheduler),
        zero_negative=bool(others) and bool(parts.options.get("force_zeros_for_empty_prompt", True)),
        vae_scale=vae_scale(parts.vae),
        adapters=Adapters(parts.networks, project, device),
        levers=levers,
        recorder=recorder,
    )


def _as_it_is(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def vae_scale(vae: Any) -> int:
    """Pixels per latent, as diffusers' pipelines compute it."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))
