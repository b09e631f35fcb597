"""From a catalog row of the family "muse" to a pipeline on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UVit2DModel, VQModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from onestroke.errors import ModelError
from onestroke.levers import Levers, check_plain, resolved
from onestroke.models.folders import SCHEDULER, SUPER_RESOLUTION, components, names_in, read_json, weights_of
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.decoder import safe_dtype
from onestroke.pipelines.layers import specialise
from onestroke.pipelines.loading import TEXT_BUCKETS, power_buckets
from onestroke.pipelines.memory import check_memory, moving
from onestroke.pipelines.muse.codec import TokenCodec
from onestroke.pipelines.muse.pipeline import MusePipeline
from onestroke.pipelines.muse.sampling import Rule, rule_of
from onestroke.pipelines.muse.super_resolution import SuperResolution
from onestroke.pipelines.muse.transformer import MaskedTransformer
from onestroke.pipelines.parts import explained, located, parameters, read_part
from onestroke.pipelines.rows import Progress
from onestroke.pipelines.text import TextEncoder

KINDS = {
    SUPER_RESOLUTION: SuperResolution,
    "transformer": UVit2DModel,
    "text_encoder": CLIPTextModelWithProjection,
    "vqvae": VQModel,
}


def load(
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    max_batch: int,
    levers: Levers,
    progress: Progress,
) -> MusePipeline:
    """Load `spec` for `device` in `dtype`; `max_batch` is the most transformer rows in one step.

    Raises ModelError when the model cannot be loaded, and says why; also for a lever that Muse does not have.
    """
    check_plain(levers, spec.name)
    levers = resolved(levers, device.type)
    source = located(spec, progress)
    with explained(spec.name, spec.source):
        networks = _read(spec, source, dtype, progress)
        rule = rule_of({**read_json(source / SCHEDULER), **dict(spec.scheduler)})
        _check_fit(networks, rule)
        tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", local_files_only=True)
    with moving(spec.name, networks.values(), device, progress):
        return _assemble(spec, networks, tokenizer, rule, device, dtype, max_batch, levers)


def _read(spec: ModelSpec, folder: Path, dtype: torch.dtype, progress: Progress) -> dict[str, Any]:
    names = names_in(folder)
    wanted = components("muse", names)
    files = [file for part in wanted for file in weights_of(names, part, spec.variant).files]
    check_memory(spec.name, parameters([folder / file for file in files]), dtype)
    networks = {}
    for done, part in enumerate(wanted):
        progress(f"loading {spec.name}: {part}", done / len(wanted))
        networks[part] = read_part(KINDS[part], folder, part, names, spec.variant, dtype)
    return networks


def _check_fit(networks: dict[str, Any], rule: Rule) -> None:
    """Raise ModelError where transformer, VQ model and scheduler do not speak of the same tokens."""
    transformer, vq = networks["transformer"].config, networks["vqvae"].config
    if transformer.codebook_size != vq.num_vq_embeddings or not vq.lookup_from_codebook:
        raise ModelError(
            f"its VQ model (of {vq.num_vq_embeddings} tokens) does not read the {transformer.codebook_size} "
            "tokens of its transformer"
        )
    if (larger := networks.get(SUPER_RESOLUTION)) and not larger.fits(transformer):
        raise ModelError("its super-resolution does not read the tokens of its transformer")
    if not transformer.codebook_size <= rule.mask < transformer.vocab_size:
        raise ModelError(f"its scheduler's mask_token_id, {rule.mask}, is not its transformer's")


def _assemble(
    spec: ModelSpec,
    networks: dict[str, Any],
    tokenizer: Any,
    rule: Rule,
    device: torch.device,
    dtype: torch.dtype,
    max_batch: int,
    levers: Levers,
) -> MusePipeline:
    masked = {}
    for part, network in networks.items():
        if part != "vqvae":
            specialise(network.to(device).eval())
        if part in ("transformer", SUPER_RESOLUTION):
            buckets = power_buckets(max_batch)
            masked[part] = MaskedTransformer(network, buckets=buckets, device=device, dtype=dtype)
    memory_format = torch.channels_last if levers.channels_last == "on" else torch.contiguous_format
    vq = networks["vqvae"].to(device, memory_format=memory_format).eval()
    if (decode_dtype := safe_dtype(vq, dtype, device)) is not dtype:
        vq = vq.to(decode_dtype)
    text = TextEncoder(
        [tokenizer],
        [networks["text_encoder"]],
        reads=(-2,),
        bucket=TEXT_BUCKETS.get(device.type, 4),
        cache_bytes=levers.prompt_cache << 20,
        project=lambda hidden: hidden,
    )
    return MusePipeline(
        spec,
        text,
        masked["transformer"],
        TokenCodec(vq),
        rule,
        masked.get(SUPER_RESOLUTION),
    )
