"""What a prompt means, as numbers: the target, and the code that the text encoder is taught to give for it.

The code (160 numbers) is one-hot per part: 120 concepts (all zero when nothing known was named), 13
recolourings (all
zero when none was asked for), 13 backgrounds. So the text encoder and the generator meet at a fixed,
readable place,
and each can be trained without the other.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.concepts import COLOUR_NAMES, CONCEPTS, NAMES, NATURAL

CODE = 160
CONCEPT_AT = 0
COLOUR_AT = len(CONCEPTS)
BACKGROUND_AT = COLOUR_AT + len(COLOUR_NAMES)
WHITE = COLOUR_NAMES.index("white")


class Target(NamedTuple):
    """What to draw, as indices: a concept or none, a new colour for it or none, the background."""

    concept: int | None = None
    colour: int | None = None
    background: int = WHITE

    def __str__(self) -> str:
        """For people: "blue cat on white"."""
        thing = "nothing" if self.concept is None else NAMES[self.concept]
        colour = "" if self.colour is None else COLOUR_NAMES[self.colour] + " "
        return f"{colour}{thing} on {COLOUR_NAMES[self.background]}"


def encode(targets: list[Target]) -> Tensor:
    """(B, 160) codes."""
    codes = torch.zeros(len(targets), CODE)
    for row, target in zip(codes, targets, strict=True):
        if target.concept is not None:
            row[CONCEPT_AT + target.concept] = 1
        if target.colour is not None:
            row[COLOUR_AT + target.colour] = 1
        row[BACKGROUND_AT + target.background] = 1
    return codes


def decode(codes: Tensor) -> list[Target]:
    """The nearest targets of (B, 160) codes; a concept or colour counts from one half."""
    targets = []
    ends = (COLOUR_AT, BACKGROUND_AT, BACKGROUND_AT + len(COLOUR_NAMES))
    for row in codes.float():
        concept = int(row[CONCEPT_AT : ends[0]].argmax())
        colour = int(row[COLOUR_AT : ends[1]].argmax())
        targets.append(
            Target(
                concept if row[CONCEPT_AT + concept] > 0.5 else None,
                colour if row[COLOUR_AT + colour] > 0.5 else None,
                int(row[BACKGROUND_AT : ends[2]].argmax()),
            )
        )
    return targets


def is_natural(concept: int, colour: int) -> bool:
    """Whether the art has the colour already, so that naming it changes nothing."""
    return NAMES[concept] in NATURAL[COLOUR_NAMES[colour]]


def _pair(kind: str, concept: int, count: int) -> frozenset[int]:
    """`count` colours of a concept, chosen by a hash: the same ones in every run."""
    digest = hashlib.sha256(f"{kind} {NAMES[concept]}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(COLOUR_NAMES))
    return frozenset([int(c) for c in order if c != WHITE or kind != "background"][:count])


HELD_BACKGROUNDS: tuple[frozenset[int], ...] = tuple(_pair("background", i, 2) for i in range(len(CONCEPTS)))
"""Two backgrounds per concept that the generator is never trained on: they show whether it composes."""

HELD_COLOURS: tuple[frozenset[int], ...] = tuple(_pair("colour", i, 2) for i in range(len(CONCEPTS)))
"""Two recolourings per concept that the generator is never trained on."""


def held_out(target: Target) -> bool:
    """Whether the generator must not see this combination while it learns."""
    if target.concept is None:
        return False
    return (
        target.background in HELD_BACKGROUNDS[target.concept] or target.colour in HELD_COLOURS[target.concept]
    )


def sample(
    rng: np.random.Generator, recoloured: float = 0.2, plain: float = 0.02, white: float = 0.3
) -> Target:
    """A training target: concepts evenly, a share of plain pictures, of white backgrounds and of recolourings."""
    background = WHITE if rng.random() < white else int(rng.integers(len(COLOUR_NAMES)))
    if rng.random() < plain:
        return Target(None, None, background)
    concept = int(rng.integers(len(CONCEPTS)))
    while background in HELD_BACKGROUNDS[concept]:
        background = int(rng.integers(len(COLOUR_NAMES)))
    colour: int | None = None
    if rng.random() < recoloured:
        colour = int(rng.integers(len(COLOUR_NAMES)))
        if colour in HELD_COLOURS[concept] or is_natural(concept, colour):
            colour = None
    return Target(concept, colour, background)
