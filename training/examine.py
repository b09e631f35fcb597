"""What the judge that was trained apart (`judge`) says of an exported pipeline: figures, sheets, and what it
must reach.

It stands beside `evaluate`, whose judge knows the one true picture of every prompt and compares pixels; this one
has never seen the generator's art, so it cannot reward a copy of it, and it can count and see two things.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline

from training import drawings, measures, truth
from training.codes import HELD_BACKGROUNDS, Target
from training.concepts import CONCEPTS, NAMES
from training.evaluate import UNTAUGHT, untaught
from training.grammar import parse
from training.judge import DualEncoder, Scenes, accuracy, art
from training.measures import Pictures, paired, share

FLAT = "@iconify-json/fluent-emoji-flat"
"""The set that the generator learns to draw, and the judge never saw."""


class Goal(NamedTuple):
    """A figure to reach."""

    name: str
    floor: float
    figure: Callable[[dict[str, Any]], float]
    needed: bool
    """Whether missing it fails the examination, or is only told."""


def _share(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda report: float(report[key]["share"])


GOALS = (
    Goal("things on white", 0.95, _share("names"), True),
    Goal("held-out backgrounds: the thing", 0.85, _share("held-out: thing"), True),
    Goal("held-out backgrounds: the colour", 0.95, _share("held-out: background"), True),
    Goal("seeds: diversity of features", 0.01, lambda r: float(r["diversity"]), True),
    Goal(
        "four steps no worse than one",
        0.0,
        lambda r: r["four steps"]["share"] - r["one step"]["share"],
        False,
    ),
    Goal("synonyms never taught", 0.7, _share("synonyms never taught"), True),
    Goal("two things: two seen", 0.6, _share("two things: two seen"), True),
    Goal("counting: two and three", 0.6, _share("counting"), True),
)
"""What the embedded model is to reach; the one not `needed` is within chance of its floor, and told anyway."""


def examine(
    pipeline: StableDiffusionXLPipeline, judge: DualEncoder, out: Path, quick: bool = False
) -> dict[str, Any]:
    """All figures of the judge's; sheets into `out`. `quick` takes a quarter of the pictures.

    The judge is not perfect. Where it is asked which thing it sees, or how many, it is shown the true picture as
    well, and only those count where it is right of that: `n` says how many.
    """
    every = range(0, len(CONCEPTS), 4 if quick else 1)
    oracle, rng = truth.Judge(), np.random.default_rng(6)
    report: dict[str, Any] = {
        "the judge on flat art": accuracy(judge, Scenes(art((FLAT,))), 4 if quick else 16),
    }

    def drawn(prompts: list[str], steps: int = 1) -> tuple[Pictures, torch.Tensor]:
        pictures = drawings.draw(pipeline, prompts, [3000 + i for i in range(len(prompts))], steps)
        return pictures, measures.look(judge, pictures)

    def true(targets: list[Target]) -> Pictures:
        """The right pictures for the same seeds."""
        pages = [oracle.true(target, 3000 + i).permute(1, 2, 0).numpy() for i, target in enumerate(targets)]
        return np.asarray(np.round(np.stack(pages) * 255), np.uint8)

    def right(features: torch.Tensor, targets: list[Target]) -> list[bool]:
        said = measures.things(judge, features)
        return [target.concept in each for target, each in zip(targets, said, strict=True)]

    def known(features: torch.Tensor, shown: torch.Tensor, targets: list[Target]) -> list[bool]:
        both = zip(right(features, targets), right(shown, targets), strict=True)
        return [made for made, seen in both if seen]

    def fairly(features: torch.Tensor, shown: torch.Tensor, targets: list[Target]) -> dict[str, Any]:
        return share(known(features, shown, targets))

    def counted(features: torch.Tensor, prompts: list[str], numbers: list[int]) -> dict[str, Any]:
        shown = measures.look(judge, true([parse(prompt) for prompt in prompts]))
        rows = zip(measures.counts(judge, features), measures.counts(judge, shown), numbers, strict=True)
        return share([made == number for made, seen, number in rows if seen == number])

    targets = [Target(i) for i in every]
    plain, features = drawn([NAMES[i] for i in every])
    art_pictures = true(targets)
    shown = measures.look(judge, art_pictures)
    report["the judge on the true pictures"] = share(right(shown, targets))
    report["names"] = fairly(features, shown, targets)
    # A judge's lengths grow as it trains.
    unit = [F.normalize(seen, dim=1).numpy() for seen in (features, shown)]
    report["judge-Frechet"] = round(measures.frechet(*unit), 4)
    report["detail, of the art's"] = round(measures.detail(plain) / measures.detail(art_pictures), 3)

    targets = [Target(i, None, min(HELD_BACKGROUNDS[i])) for i in every]
    pictures, features = drawn([drawings.caption_of(target) for target in targets])
    report["held-out: thing"] = fairly(features, measures.look(judge, true(targets)), targets)
    grounds = [measures.corner_colour(picture) for picture in pictures]
    report["held-out: background"] = share(
        [g == target.background for g, target in zip(grounds, targets, strict=True)]
    )

    wanted = untaught(pipeline.text_encoder_2, pipeline.tokenizer_2)
    report["synonyms never taught: read"] = share([read for read, _ in wanted])
    words = list(UNTAUGHT)[:: 4 if quick else 1]
    targets = [Target(thing) for _, thing in wanted[:: 4 if quick else 1]]
    pictures, features = drawn(words)
    report["synonyms never taught"] = fairly(features, measures.look(judge, true(targets)), targets)
    drawings.sheet(pictures, words, 10, out / "synonyms.png")

    pairs = [rng.choice(len(CONCEPTS), 2, replace=False) for _ in range(10 if quick else 40)]
    prompts = [f"{NAMES[a]} and {NAMES[b]}" for a, b in pairs]
    pictures, features = drawn(prompts)
    report["two things: two seen"] = counted(features, prompts, [2] * len(prompts))
    drawings.sheet(pictures, prompts, 10, out / "pairs.png")

    numbers = (("two", 2), ("three", 3))
    chosen = [(*numbers[k % 2], int(rng.integers(len(CONCEPTS)))) for k in range(10 if quick else 40)]
    prompts = [f"{word} {CONCEPTS[i].words[-1]}" for word, _, i in chosen]
    report["counting"] = counted(drawn(prompts)[1], prompts, [number for _, number, _ in chosen])

    targets = [Target(i) for i in list(every)[::3]]
    shown = measures.look(judge, true(targets))
    prompts = [drawings.caption_of(target) for target in targets]
    one, four = (known(drawn(prompts, steps)[1], shown, targets) for steps in (1, 4))
    report |= {"one step": share(one), "four steps": share(four), "four steps, beside one": paired(one, four)}

    things = [Target(i) for i in list(every)[:: 4 if quick else 12]]
    features = drawn([drawings.caption_of(target) for target in things for _ in range(4)])[1]
    report["diversity"] = round(measures.feature_diversity(features.view(len(things), 4, -1)), 4)
    return report


def verdict(report: dict[str, Any]) -> tuple[str, bool]:
    """The goals as a table, and whether every needed one is reached."""
    lines, passed = [f"{'':<36} reached   goal"], True
    for goal in GOALS:
        figure = goal.figure(report)
        missed = figure < goal.floor
        passed = passed and not (missed and goal.needed)
        mark = ("MISSED" if goal.needed else "not reached") if missed else ""
        lines.append(f"{goal.name:<36} {figure:7.3f} {goal.floor:6.2f} {mark}")
    return "\n".join(lines), passed
