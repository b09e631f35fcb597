"""The ablation table: teacher, ADD and its losses one by one, DMD2, and plain regression, on the same 128
prompts and seeds.

Each row is drawn through diffusers' own SDXL pipeline with the shipped text encoder and decoder: the 64 things
on white or on a background that was never seen with them, two seeds each, the crop in the middle, so that all
that differs between seeds is what the noise decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from training import add, decoder, diffusion, dmd2, drawings, export, judge, measures, teacher
from training.codes import HELD_BACKGROUNDS, WHITE, Target
from training.concepts import NAMES
from training.data import load_art
from training.diffusion import THINGS
from training.judge import DualEncoder
from training.latents import EDGE, PATCH, PLACED, Composer, Encoder, Scene, cropped, grounds
from training.measures import Pictures, share
from training.paths import WORK

OUT = WORK / "ablation"
SEEDS = 2
SHOWN = tuple(
    NAMES.index(name) for name in ("cat", "dog", "rocket", "car", "fish", "whale", "dinosaur", "airplane")
)
"""The things on the sheet, both seeds."""


class Row(NamedTuple):
    """One row: whose weights (None: the shipped ones, with their own sampler), steps, guidance."""

    name: str
    path: Path | None
    steps: int = 1
    guidance: float = 0.0

    @property
    def key(self) -> str:
        """Its name in files."""
        return f"{self.name.replace(' ', '-').replace(',', '')}-{self.steps}"


ROWS: tuple[Row, ...] = (
    Row("shipped", None),
    Row("shipped", None, 4),
    *(Row("teacher", teacher.CHECKPOINT, steps) for steps in (1, 2, 4, 20)),
    Row("teacher, guidance 2", teacher.CHECKPOINT, 20, 2.0),
    *(Row("regression", add.path_of("regression"), steps) for steps in (1, 4)),
    *(Row("adversarial only", add.path_of("adversarial"), steps) for steps in (1, 4)),
    *(Row("distillation only", add.path_of("distillation"), steps) for steps in (1, 4)),
    *(Row("ADD", add.path_of("both"), steps) for steps in (1, 4)),
    *(Row("DMD2", dmd2.CHECKPOINT, steps) for steps in (1, 4)),
)


def targets() -> list[Target]:
    """What is drawn: every thing, `SEEDS` times in a row."""
    grounds = [WHITE if k % 2 else min(HELD_BACKGROUNDS[thing]) for k, thing in enumerate(THINGS)]
    return [
        Target(thing, None, ground)
        for thing, ground in zip(THINGS, grounds, strict=True)
        for _ in range(SEEDS)
    ]


class Truth:
    """The right pictures: each thing both ways, with washes by chance or none."""

    def __init__(self, composer: Composer | None = None) -> None:
        """From a composer's art, or the rendered art at the generator's size."""
        self.composer = composer or Composer(*load_art((PLACED,)))

    def picture(self, target: Target, mirrored: bool, washed: bool = False) -> Pictures:
        """(512, 512, 3) bytes."""
        scene = Scene(target.concept, target.colour, target.background, cropped((0, 0)))
        cutout = self.composer.cutout(scene).float().div(255).numpy()
        cutout = cutout[:, ::-1] if mirrored else cutout
        ground = grounds([target])
        behind = (
            diffusion.noisy_washes(ground)
            if washed
            else ground[:, :, None, None].expand(-1, -1, EDGE // PATCH, -1)
        )
        behind = behind.expand(-1, -1, EDGE // PATCH, EDGE // PATCH)
        spread = behind[0].permute(1, 2, 0).numpy().repeat(PATCH, 0).repeat(PATCH, 1)
        return np.asarray(np.round(255 * (cutout[..., :3] + (1 - cutout[..., 3:]) * spread)), np.uint8)

    def draw(self, seed: int) -> Pictures:
        """Every target, mirrored and washed by chance."""
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        return np.stack([self.picture(target, bool(rng.random() < 0.5), washed=True) for target in targets()])


def measure(
    pictures: Pictures, eye: DualEncoder, truth: Truth, reference: np.ndarray[Any, Any], art_detail: float
) -> dict[str, Any]:
    """All figures of one row's pictures; `reference` are the judge's features of true ones."""
    wanted = targets()
    features = measures.look(eye, pictures)
    said = measures.things(eye, features)
    grounds = [measures.corner_colour(picture) for picture in pictures]
    sides, distances = [], []
    for picture, target in zip(pictures, wanted, strict=True):
        left, right = (truth.picture(target, mirrored) for mirrored in (False, True))
        errors = [((picture.astype(np.float32) - true) ** 2).mean() for true in (left, right)]
        distances.append(float(10 * np.log10(255**2 / max(min(errors), 0.1))))
        if ((left.astype(np.float32) - right) ** 2).mean() > 400:
            sides.append(measures.facing(picture, left, right))
    pairs = pictures.reshape(-1, SEEDS, EDGE, EDGE, 3).astype(np.float32) / 255
    return {
        "thing": share([t.concept in s for t, s in zip(wanted, said, strict=True)]),
        "background": share([t.background == g for t, g in zip(wanted, grounds, strict=True)]),
        "judge-Frechet": round(measures.frechet(features.numpy(), reference), 3),
        "diversity": round(measures.feature_diversity(features.view(-1, SEEDS, features.shape[1])), 4),
        "difference between seeds": round(float(np.abs(pairs[:, 0] - pairs[:, 1]).mean()), 4),
        "detail": round(measures.detail(pictures) / art_detail, 3),
        "decided": round(float(np.abs(sides).clip(0, 1).mean()), 3) if sides else 1.0,
        "mirrored": share([side > 0 for side in sides]),
        "PSNR": round(float(np.mean(distances)), 2),
    }


def drawn(row: Row) -> Pictures:
    """A row's 128 pictures."""
    pipeline = export.load()
    if row.path is not None:
        pipeline.register_modules(unet=diffusion.load(row.path).eval(), scheduler=diffusion.scheduler())
    prompts = [drawings.caption_of(target) for target in targets()]
    seeds = [5000 + i for i in range(len(prompts))]
    return drawings.draw(pipeline, prompts, seeds, row.steps, guidance=row.guidance, crop=(0, 0))


def decoded(truth: Truth) -> Pictures:
    """True latents through the shipped decoder: as good as any row can look."""
    vae, encoder = decoder.shipped_vae(), Encoder.load()
    pages = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for picture in truth.draw(3):
            x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
            made = vae.decode(encoder.pictures(x)).sample[0].float().clamp(-1, 1)
            pages.append(((made.permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.stack(pages)


def run(only: str = "", out: Path = OUT) -> dict[str, Any]:
    """Measure the rows that have weights and whose name holds a part of `only`; merge them into `out`'s report."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    eye, truth = judge.load(), Truth()
    sets = [truth.draw(seed) for seed in range(4)]
    reference = torch.cat([measures.look(eye, pictures) for pictures in sets]).numpy()
    detail = measures.detail(sets[0])
    jobs: dict[str, Callable[[], Pictures]] = {
        "art": partial(truth.draw, 9),
        "art, decoded": partial(decoded, truth),
    }
    jobs |= {row.key: partial(drawn, row) for row in ROWS if row.path is None or row.path.exists()}
    for name, job in tqdm(
        [(k, v) for k, v in jobs.items() if any(part in k for part in only.split(","))], unit="row"
    ):
        pictures = job()
        report[name] = measure(pictures, eye, truth, reference, detail)
        strip = [pictures[SEEDS * THINGS.index(thing) + seed] for thing in SHOWN for seed in range(SEEDS)]
        page = np.concatenate(
            [np.asarray(Image.fromarray(p).resize((96, 96), Image.Resampling.LANCZOS)) for p in strip], 1
        )
        Image.fromarray(page).save(out / f"strip-{name.replace(', ', '-')}.png")
        path.write_text(json.dumps(report, indent=1) + "\n")
    sheet(report, out)
    (out / "table.md").write_text(table(report))
    return report


def sheet(report: dict[str, Any], out: Path) -> None:
    """All rows' strips on one page, named."""
    names = [name for name in ("art", "art, decoded", *(row.key for row in ROWS)) if name in report]
    page = Image.new("RGB", (96 * SEEDS * len(SHOWN) + 150, 98 * len(names)), "white")
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(names):
        page.paste(Image.open(out / f"strip-{name.replace(', ', '-')}.png"), (150, 98 * i))
        pen.text((4, 98 * i + 42), name, fill="black")
    page.save(out / "ablation.webp", quality=75, method=6)


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    columns = ("thing", "background", "judge-Frechet", "diversity", "detail", "decided", "mirrored", "PSNR")
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name in ("art", "art, decoded", *(row.key for row in ROWS)):
        if name in report:
            cells = (report[name][column] for column in columns)
            texts = [f"{cell['share']:.1%}" if isinstance(cell, dict) else f"{cell:g}" for cell in cells]
            lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"
