"""What the trained Muse draws, through the server's own pipeline: contact sheets of everything, and figures.

A picture is *recognised* when, of all things of the world looking either way on the background that was asked for,
and of that background alone, the right thing is nearest in mean squared distance at the small size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from onestroke.core import GenerationRequest
from onestroke.models.choosing import resolve
from onestroke.pipelines.loading import load
from onestroke.pipelines.muse.editing import edit, inpaint, outpaint
from onestroke.pipelines.muse.pipeline import MusePipeline, MuseRow
from training.codes import HELD_BACKGROUNDS, WHITE, Target
from training.concepts import COLOUR_NAMES
from training.drawings import caption_of, sheet
from training.grammar import parse
from training.latents import PALETTE
from training.measures import corner_colour, share
from training.muse import codec
from training.muse.export import FOLDER
from training.muse.pictures import LARGE, SMALL, THINGS, Pictures, View, to_bytes
from training.paths import WORK

Bytes = NDArray[np.uint8]
OUT = WORK / "muse" / "sheets"
PROMPTS = (
    "cat",
    "a dog",
    "red apple",
    "rocket on blue",
    "heart on a black background",
    "a house on green",
    "happy face",
    "robot on yellow",
    "pizza on pink",
    "a car",
    "star on a blue background",
    "tree on white",
    "ghost on purple",
    "unicorn on pink",
    "sunflower on teal",
    "rainbow",
    "kitty on red",
    "puppy on orange",
    "spaceship on gray",
    "a cottage on brown",
    "blue cat",
    "two dogs",
    "ghost",
    "castle on green",
)
"""Written before anything was trained; the last lines ask for a recolouring, a number and a thing never taught."""
CHANGES = (
    ("cat on white", "dog on white"),
    ("apple on green", "apple on yellow"),
    ("pizza on white", "heart on white"),
    ("ghost on blue", "ghost on red"),
    ("robot on yellow", "smiling face on yellow"),
    ("car on white", "rocket on white"),
)
"""A picture, and the prompt that it is edited towards without a mask."""
STEPS, GUIDANCE = 16, 3.0
EDIT_STEPS, EDIT_GUIDANCE = 100, 4.0
"""The paper's."""


class Muse:
    """A folder as the server draws with it."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Loads it in fp32 on the CPU."""
        pipeline = load(resolve(str(folder)), device="cpu", dtype="float32")
        assert isinstance(pipeline, MusePipeline)
        self.pipeline = pipeline

    def row(self, prompt: str, seed: int, edge: int = LARGE, **values: Any) -> MuseRow:
        """A picture to be drawn."""
        asked = {"steps": STEPS, "guidance_scale": GUIDANCE, **values}
        spec = self.pipeline.spec
        request = GenerationRequest(
            spec.name, prompt, seed, sampler=spec.sampler, width=edge, height=edge, **asked
        )
        return self.pipeline.prepare(seed, request)

    def draw(self, rows: list[MuseRow], batch: int = 4) -> Bytes:
        """(n, edge, edge, 3), a few rows at a time."""
        made: list[Bytes] = []
        for i in range(0, len(rows), batch):
            some = rows[i : i + batch]
            self.pipeline.encode(some)
            while running := [row for row in some if not row.finished]:
                self.pipeline.step(running)
            made += [picture for _, pictures in self.pipeline.decode(some) for picture in pictures]
        return np.stack(made)

    @torch.inference_mode()
    def small(self, row: MuseRow) -> Bytes:
        """The picture that a finished large row was drawn from, at the large size."""
        assert row.small is not None
        picture: Bytes = self.pipeline.codec.decode(row.small[None])[0][0]
        return picture.repeat(2, 0).repeat(2, 1)


class Truth:
    """The world's pictures, to compare with."""

    def __init__(self, pictures: Pictures) -> None:
        """At the small size, where things are told apart."""
        self.pictures = pictures

    def __call__(self, target: Target, edge: int = LARGE, mirrored: bool = False) -> Bytes:
        """The right picture (edge, edge, 3)."""
        picture: Bytes = to_bytes(self.pictures.paint([View(target, mirrored)], edge))[0]
        return picture

    def recognised(self, picture: Bytes, target: Target) -> bool:
        """See the module's text."""
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        x = F.avg_pool2d(x, picture.shape[0] // SMALL)
        views = [View(target._replace(concept=thing), way) for thing in THINGS for way in (False, True)]
        plain = torch.from_numpy(PALETTE[target.background])[None, :, None, None].expand_as(x)
        every = torch.cat([self.pictures.paint(views, SMALL), plain])
        nearest = int((every - x).pow(2).mean((1, 2, 3)).argmin())
        return nearest < len(views) and views[nearest].target == target


def judged(muse: Muse, truth: Truth, targets: list[Target], edge: int) -> dict[str, Any]:
    """Shares of targets whose thing is recognised, and whose background's colour is right."""
    pictures = muse.draw([muse.row(caption_of(target), 500 + i, edge) for i, target in enumerate(targets)])
    pairs = list(zip(pictures, targets, strict=True))
    return {
        "thing": share([truth.recognised(picture, target) for picture, target in pairs]),
        "background": share(
            [corner_colour(picture, edge // 16) == target.background for picture, target in pairs]
        ),
    }


def figures(muse: Muse, truth: Truth) -> dict[str, Any]:
    """What the networks can do, in numbers."""
    vq = muse.pipeline.codec.vq
    views = [View(Target(thing, None, ground)) for thing in THINGS for ground in (WHITE, thing % 13)]
    report: dict[str, Any] = {}
    used: set[int] = set()
    for edge in (SMALL, LARGE):
        true = truth.pictures.paint(views, edge)
        tokens = codec.encode(vq, true)
        used |= set(tokens.flatten().tolist())
        error = (codec.decode(vq, tokens).clamp(0, 1) - true).pow(2).flatten(1).mean(1)
        report[f"tokens at {edge}: PSNR in dB"] = round(float(-10 * error.log10().mean()), 2)
    report["tokens: entries used"] = f"{len(used)} of {vq.config.num_vq_embeddings}"
    taught = [
        Target(thing, None, ground)
        for thing in THINGS
        for ground in [g for g in range(len(COLOUR_NAMES)) if g not in HELD_BACKGROUNDS[thing]][::4]
    ]
    held = [Target(thing, None, ground) for thing in THINGS for ground in sorted(HELD_BACKGROUNDS[thing])]
    report["base, seen backgrounds"] = judged(muse, truth, taught, SMALL)
    report["base, held-out backgrounds"] = judged(muse, truth, held, SMALL)
    report["both stages, seen backgrounds"] = judged(muse, truth, taught, LARGE)
    return report


def text_sheet(muse: Muse, out: Path) -> None:
    """Every prompt, two seeds."""
    rows = [muse.row(prompt, seed) for prompt in PROMPTS for seed in (1, 2)]
    titles = [title for prompt in PROMPTS for title in (prompt, "")]
    sheet(muse.draw(rows), titles, 8, out / "muse-text.webp", 96)


def paint_sheet(muse: Muse, truth: Truth, out: Path) -> None:
    """Inpainting: the picture, the mask laid over it in grey, what is painted. Outpainting: likewise."""
    pictures, titles = list[Bytes](), list[str]()
    corner, middle = np.zeros((LARGE, LARGE), bool), np.zeros((LARGE, LARGE), bool)
    corner[: LARGE // 2, LARGE // 2 :] = True
    middle[LARGE // 4 : 3 * LARGE // 4, LARGE // 4 : 3 * LARGE // 4] = True
    right = np.arange(LARGE) >= LARGE // 2 + np.zeros((LARGE, 1))
    for i, (prompt, mask) in enumerate(
        (
            ("cat on blue", right),
            ("robot on yellow", corner),
            ("pizza on white", middle),
            ("house on green", corner),
            ("unicorn on pink", right),
            ("ghost on purple", middle),
        )
    ):
        true = truth(parse(prompt))
        row = muse.row(prompt, 20 + i)
        inpaint(muse.pipeline, row, true, mask)
        pictures += [true, _greyed(true, mask), muse.draw([row])[0]]
        titles += [prompt, "mask", "inpainted"]
    for i, prompt in enumerate(("dog on teal", "rocket on orange", "tree on white", "star on blue")):
        true = truth(parse(prompt))
        part = true[LARGE // 4 : 3 * LARGE // 4, LARGE // 4 : 3 * LARGE // 4]
        row = muse.row(prompt, 30 + i)
        outpaint(muse.pipeline, row, part, LARGE // 4, LARGE // 4)
        pictures += [true, _greyed(true, ~middle), muse.draw([row])[0]]
        titles += [prompt, "what is given", "outpainted"]
    sheet(np.stack(pictures), titles, 6, out / "muse-paint.webp", 112)


def edit_sheet(muse: Muse, truth: Truth, out: Path) -> None:
    """Mask-free editing: the picture, then three seeds of the edit."""
    pictures, titles = list[Bytes](), list[str]()
    for before, after in CHANGES:
        true = truth(parse(before))
        rows = [
            muse.row(after, seed, steps=EDIT_STEPS, guidance_scale=EDIT_GUIDANCE) for seed in (40, 41, 42)
        ]
        for row in rows:
            edit(muse.pipeline, row, true)
        pictures += [true, *muse.draw(rows)]
        titles += [before, after, "", ""]
    sheet(np.stack(pictures), titles, 8, out / "muse-edit.webp", 96)


def larger_sheet(muse: Muse, truth: Truth, out: Path) -> None:
    """Super-resolution: the small picture, the large one drawn from it, and the true one beside."""
    pictures, titles = list[Bytes](), list[str]()
    for i, thing in enumerate(THINGS[:12]):
        target = Target(thing, None, (3 * i) % len(COLOUR_NAMES))
        row = muse.row(caption_of(target), 60 + i)
        drawn = muse.draw([row])[0]
        pictures += [muse.small(row), drawn, truth(target)]
        titles += [caption_of(target).replace(" background", ""), "larger", "true"]
    sheet(np.stack(pictures), titles, 6, out / "muse-larger.webp", 112)


def _greyed(picture: Bytes, mask: NDArray[np.bool_]) -> Bytes:
    return np.where(mask[..., None], np.uint8(128), picture)


def run(folder: Path = FOLDER, out: Path = OUT, pictures: Pictures | None = None) -> dict[str, Any]:
    """All sheets and the figures into `out`; the figures."""
    muse, truth = Muse(folder), Truth(pictures or Pictures())
    out.mkdir(parents=True, exist_ok=True)
    text_sheet(muse, out)
    larger_sheet(muse, truth, out)
    paint_sheet(muse, truth, out)
    edit_sheet(muse, truth, out)
    report = figures(muse, truth)
    (out / "muse.json").write_text(json.dumps(report, indent=1) + "\n")
    return report
