"""Prompts drawn by a pipeline, as the server would, and laid out for people to look at."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training import codes
from training.codes import WHITE, Target
from training.concepts import COLOUR_NAMES, STYLE_NAMES
from training.latents import EDGE
from training.truth import crop_of


def draw(
    pipeline: StableDiffusionXLPipeline,
    prompts: list[str],
    seeds: list[int],
    steps: int = 1,
    batch: int = 8,
    guidance: float = 0.0,
    crop: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """(n, 512, 512, 3) pictures through the whole pipeline, in bf16 autocast; one `crop`, or the seeds' own."""
    made = np.empty((len(prompts), EDGE, EDGE, 3), np.uint8)
    corners = [crop or crop_of(seed) for seed in seeds]
    # diffusers crops a whole call alike
    order = sorted(range(len(prompts)), key=lambda i: corners[i])
    for corner, alike in itertools.groupby(order, key=lambda i: corners[i]):
        rest = list(alike)
        while rest:
            some, rest = rest[:batch], rest[batch:]
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                out = pipeline(
                    [prompts[i] for i in some],
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    height=EDGE,
                    width=EDGE,
                    crops_coords_top_left=corner,
                    generator=[torch.Generator().manual_seed(seeds[i]) for i in some],
                    output_type="np",
                ).images
            made[some] = np.round(out * 255).clip(0, 255).astype(np.uint8)
    return made


def sheet(pictures: NDArray[np.uint8], titles: list[str], columns: int, path: Path, edge: int = 128) -> None:
    """A contact sheet."""
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (edge + 4), rows * (edge + 18)), "white")
    pen = ImageDraw.Draw(page)
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        x, y = (i % columns) * (edge + 4) + 2, (i // columns) * (edge + 18)
        page.paste(Image.fromarray(picture).resize((edge, edge), Image.Resampling.LANCZOS), (x, y))
        pen.text((x + 1, y + edge + 2), title[: edge // 6], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def caption_of(target: Target) -> str:
    """A plain caption for a target."""
    *rest, last = [str(thing) for thing in target.things] or ["plain"]
    between = " above " if codes.layout(target.group) == 1 else " and "
    ground = "" if target.background == WHITE else f" on a {COLOUR_NAMES[target.background]} background"
    style = "" if target.style is None else f", {STYLE_NAMES[target.style]}"
    return (", ".join(rest) + between if rest else "") + last + ground + style
