"""What a target is made of: a model as `onestroke serve` takes it, or random weights in memory.

`random:NAME` stands for the exact configuration of one of `checkpoints.MODELS`, with weights drawn from a seed: its
pictures are noise, its times are those of the real thing, and nothing has to be there.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny

from benchmarks import checkpoints
from benchmarks.options import RANDOM, ModelOptions
from onestroke.errors import ModelError
from onestroke.models.catalog import CATALOG, CONFIGS
from onestroke.models.choosing import choose
from onestroke.models.folders import SCHEDULER, read_json
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.clip_tokenizer import clip_tokenizer
from onestroke.pipelines.parts import Parts, read_parts

SEED = 0


def spec_of(options: ModelOptions) -> ModelSpec:
    """The row to measure. Raises ModelError for a model that there is not, or of a family without these stages."""
    if options.model.startswith(RANDOM):
        return CATALOG[options.model.removeprefix(RANDOM)]
    spec = choose(options.model, vae=options.vae).spec
    if spec.family not in ("sdxl", "sd"):
        raise ModelError(f"{spec.name} is of the family {spec.family}: only sdxl and sd can be measured")
    return spec


def parts_of(options: ModelOptions, dtype: torch.dtype) -> Parts:
    """Its parts in `dtype` on the CPU."""
    spec = spec_of(options)
    if not options.model.startswith(RANDOM):
        return read_parts(spec, dtype)
    layout = checkpoints.MODELS[spec.name].layout
    parts = checkpoints.parts_of(layout)
    encoders = tuple(part for name, part in parts.items() if name.startswith("text_encoder"))
    vae = random_tiny_vae(dtype) if options.vae == "tiny" else filled(parts["vae"], dtype)
    return Parts(
        unet=filled(parts["unet"], dtype),
        vae=vae,
        text_encoders=tuple(filled(encoder, dtype) for encoder in encoders),
        tokenizers=tuple(clip_tokenizer(pad=pad) for pad in ("<|endoftext|>", "!")[: len(encoders)]),
        scheduler={**read_json(CONFIGS / layout / SCHEDULER), **dict(spec.scheduler)},
        options={},
    )


def random_tiny_vae(dtype: torch.dtype) -> AutoencoderTiny:
    """TAESD's shapes, which are diffusers' defaults; SD's and SDXL's are alike."""
    torch.manual_seed(SEED)
    return AutoencoderTiny().to(dtype).eval()


def filled(part: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A module on the meta device with random weights of `dtype` on the CPU instead."""
    state = checkpoints.fill(part.state_dict(), dtype, torch.Generator().manual_seed(SEED))
    part.load_state_dict(state, assign=True)
    for name, buffer in part.named_buffers():
        if buffer.is_meta:  # position_ids, which no checkpoint holds
            owner = part.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return part.eval()
