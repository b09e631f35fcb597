"""`make train-muse`: all three networks one after another, and the folder that they are drawn with.

The folder is an ordinary AmusedPipeline's. Beside its parts lies `super_resolution`, which diffusers does not look
at; `onestroke serve --model FOLDER` draws large pictures with it, and small ones without.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import AmusedPipeline, AmusedScheduler, VQModel
from torch import nn

from onestroke.models.folders import SUPER_RESOLUTION
from onestroke.pipelines.muse.super_resolution import SuperResolution
from training import export
from training.muse import codec, masked
from training.muse.masked import MASK, Texts, World
from training.muse.pictures import Pictures
from training.paths import WORK

FOLDER = WORK / "muse" / "model"


def train(
    device: str = "cpu",
    folder: Path = FOLDER,
    pictures: Pictures | None = None,
    texts: Texts | None = None,
) -> None:
    """Train what is not trained yet, and write `folder`."""
    pictures, texts = pictures or Pictures(), texts or Texts()
    vq = codec.train(pictures=pictures, device=device)
    world = World(vq, pictures, device)
    base, larger = (masked.train(stage, world, texts, device=device) for stage in masked.STAGES)
    write(vq, base, larger, texts, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB; draw with `onestroke serve --model {folder}`")


def write(vq: VQModel, base: nn.Module, larger: nn.Module, texts: Texts, folder: Path) -> None:
    """The whole folder, in fp16; the networks stay as they are."""
    vq, base, larger, encoder = copy.deepcopy((vq, base, larger, texts.encoder))
    pipeline = AmusedPipeline(
        vqvae=vq,
        tokenizer=texts.tokenizer,
        text_encoder=encoder,
        transformer=base,
        scheduler=AmusedScheduler(mask_token_id=MASK),
    )
    export.save(pipeline, folder)
    assert isinstance(larger, SuperResolution)
    larger.to(torch.bfloat16).to(torch.float16).save_pretrained(folder / SUPER_RESOLUTION)
