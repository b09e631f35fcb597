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
from diffusers import StableDiffusionXLPipeline

from training import evaluate, measures
from training.codes import HELD_BACKGROUNDS, WHITE, Target
from training.concepts import CONCEPTS, INDEX, NAMES
from training.judge import DualEncoder, Scenes, accuracy, art
from training.measures import Pictures, share

UNTAUGHT: dict[str, str] = {
    word: name
    for name, words in {
        "dog": "mutt, pooch",
        "cat": "moggy",
        "house": "bungalow",
        "robot": "automaton",
        "pizza": "margherita",
        "car": "motorcar, hatchback",
        "tree": "sapling",
        "ghost": "poltergeist",
        "sun": "sunbeam",
        "guitar": "ukulele",
        "fish": "clownfish",
        "horse": "steed",
        "mouse": "hamster",
        "frog": "bullfrog, tadpole",
        "cow": "heifer",
        "chicken": "cockerel",
        "snake": "viper, anaconda",
        "shark": "hammerhead",
        "dinosaur": "velociraptor",
        "dragon": "wyvern",
        "bee": "hornet",
        "bird": "finch",
        "monkey": "macaque",
        "parrot": "cockatoo",
        "orange": "satsuma",
        "watermelon": "cantaloupe",
        "cheese": "gouda",
        "hot dog": "bratwurst",
        "taco": "burrito",
        "cake": "gateau",
        "cookie": "gingerbread",
        "ice cream": "popsicle",
        "skull": "cranium",
        "fire": "inferno",
        "bicycle": "tricycle",
        "airplane": "airliner",
        "boat": "catamaran, schooner",
        "bus": "minibus",
        "train": "tram",
        "castle": "citadel",
        "crown": "coronet",
        "diamond": "emerald",
        "umbrella": "brolly",
        "gift": "parcel",
        "santa": "kris kringle",
    }.items()
    for word in words.split(", ")
}
"""Synonyms and kinds of the things that no list of `training` holds: the text encoder never met them."""


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
    Goal("synonyms never taught", 0.7, _share("synonyms never taught"), False),
    Goal("two things: both", 0.6, _share("two things"), False),
    Goal("counting: two and three", 0.6, _share("counting"), False),
)
"""What the embedded model is to reach; those not `needed` are beyond the shipped edition, and told anyway."""


def examine(
    pipeline: StableDiffusionXLPipeline, judge: DualEncoder, out: Path, quick: bool = False
) -> dict[str, Any]:
    """All figures of the judge's; sheets into `out`. `quick` takes a quarter of the pictures."""
    every = range(0, len(CONCEPTS), 4 if quick else 1)
    flat = Scenes(art(("@iconify-json/fluent-emoji-flat",)))
    report: dict[str, Any] = {"the judge on true flat art": accuracy(judge, flat, 4 if quick else 16)}
    rng = np.random.default_rng(6)

    def drawn(prompts: list[str], steps: int = 1, first: int = 3000) -> tuple[Pictures, torch.Tensor]:
        pictures = evaluate.draw(pipeline, prompts, [first + i for i in range(len(prompts))], steps)
        return pictures, measures.look(judge, pictures)

    def right(features: torch.Tensor, concepts: list[int]) -> list[bool]:
        said = measures.things(judge, features)
        return [concept in each for concept, each in zip(concepts, said, strict=True)]

    plain, features = drawn([NAMES[i] for i in every])
    named = right(features, list(every))
    report["names"] = share(named)
    report["not recognised"] = [NAMES[i] for i, good in zip(every, named, strict=True) if not good]
    truth = evaluate.Judge()
    true = np.stack([truth.true(Target(i), 3000 + k).permute(1, 2, 0) for k, i in enumerate(every)])
    true = np.round(true * 255).astype(np.uint8)
    report["judge-Frechet"] = round(measures.frechet(features.numpy(), measures.look(judge, true).numpy()), 4)
    report["detail, of the art's"] = round(measures.detail(plain) / measures.detail(true), 3)

    held = [Target(i, None, min(HELD_BACKGROUNDS[i])) for i in every]
    pictures, features = drawn([evaluate.caption_of(target) for target in held])
    report["held-out: thing"] = share(right(features, list(every)))
    grounds = [measures.corner_colour(picture) for picture in pictures]
    report["held-out: background"] = share([g == t.background for g, t in zip(grounds, held, strict=True)])

    words = list(UNTAUGHT)[:: 4 if quick else 1]
    pictures, features = drawn(words)
    report["synonyms never taught"] = share(right(features, [INDEX[UNTAUGHT[word]] for word in words]))
    evaluate.sheet(pictures, words, 10, out / "synonyms.png")

    pairs = [tuple(map(int, rng.choice(len(CONCEPTS), 2, replace=False))) for _ in range(10 if quick else 40)]
    prompts = [f"{NAMES[a]} and {NAMES[b]}" for a, b in pairs]
    pictures, features = drawn(prompts)
    seen = measures.things(judge, features, 2)
    two = measures.counts(judge, features)
    report["two things"] = share(
        [set(p) == set(s) and n == 2 for p, s, n in zip(pairs, seen, two, strict=True)]
    )
    evaluate.sheet(pictures, prompts, 10, out / "pairs.png")

    numbers = [("two", 2), ("three", 3)]
    chosen = [(*numbers[k % 2], int(rng.integers(len(CONCEPTS)))) for k in range(10 if quick else 40)]
    _, features = drawn([f"{word} {CONCEPTS[i].words[-1]}" for word, _, i in chosen])
    counted = measures.counts(judge, features)
    report["counting"] = share([n == count for (_, n, _), count in zip(chosen, counted, strict=True)])

    some = list(every)[::3]
    for name, steps in (("one step", 1), ("four steps", 4)):
        report[name] = share(right(drawn([NAMES[i] for i in some], steps)[1], some))

    things = [Target(i, None, WHITE) for i in list(every)[:: 4 if quick else 12]]
    prompts = [evaluate.caption_of(target) for target in things for _ in range(4)]
    features = drawn(prompts)[1]
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
