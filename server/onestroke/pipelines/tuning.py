"""Before the warm-up the attention kernel is chosen and networks are compiled; afterwards one line says it all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import diffusers
import torch

from onestroke import __version__
from onestroke.pipelines.compiled import CompiledCache, cache_home, card, compile_network
from onestroke.pipelines.rows import Progress
from onestroke.pipelines.warmup import measured_attention

if TYPE_CHECKING:
    from onestroke.pipelines.pipeline import Pipeline

SHORT = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


def tune(pipeline: Pipeline, progress: Progress) -> CompiledCache | None:
    """Do what `pipeline`'s levers ask for; returns the folder of its compiled artifacts if it is to compile."""
    levers, cache = pipeline.levers, None
    if levers.compile != "off":
        cache = CompiledCache(cache_home(levers.cache_dir), _identity(pipeline))
    if levers.attention == "auto" and pipeline.device.type == "cuda":
        # Remembered, because a kernel chosen anew might differ and nothing compiled would fit.
        known = cache.notes.get("attention") if cache else None
        if known is None:
            progress("measuring attention", 0.0)
        pipeline.attention = known or measured_attention(pipeline)
    if cache is not None:
        for network in (pipeline.denoiser.unet, *(each.net for each in pipeline.controls.values())):
            compile_network(network, levers.compile, "unet")
        for encoder in pipeline.text.encoders:
            compile_network(encoder, levers.compile, "text")
        for decoder in pipeline.distinct_decoders:
            if decoder.compiles:
                compile_network(decoder.network, levers.compile, "decoder")
    return cache


def _identity(pipeline: Pipeline) -> dict[str, str]:
    """What compiled artifacts depend on."""
    spec = pipeline.spec
    return {
        "model": f"{spec.source} {spec.revision} {spec.vae} {spec.default_size}",
        "dtype": str(pipeline.dtype),
        "card": card(pipeline.device),
        "buckets": str((pipeline.text.bucket, pipeline.denoiser.buckets)),
        "controls": str(spec.controls),
        "levers": str(replace(pipeline.levers, cache_dir="", prompt_cache=0)),
        "torch": f"{torch.__version__} {torch.version.cuda}",
        "versions": f"{__version__} {diffusers.__version__}",
    }


def described(pipeline: Pipeline) -> str:
    """Every lever in one line."""
    levers = pipeline.levers
    recorded = " ".join(map(str, pipeline.denoiser.graphed.recorded))
    measured = " (measured)" * (pipeline.attention != levers.attention)
    one = len(pipeline.distinct_decoders) == 1
    only = "tiny" if pipeline.decoder.is_tiny else "full"
    words = {
        SHORT[pipeline.dtype]: True,
        "channels_last": levers.channels_last == "on",
        f"compile {levers.compile}": True,
        f"graphs {recorded or 'off'}": True,
        "fused projections": levers.fuse == "on",
        "keys and values with the prompt": levers.encode_kv == "on",
        f"attention {pipeline.attention}{measured}": True,
        f"quantize {levers.quantize}": True,
        f"decoder {only if one else levers.decoder}": True,
    }
    return ", ".join(word for word, said in words.items() if said)
