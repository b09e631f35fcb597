"""What a prompt means, as numbers: the target, and the codes that the text encoder is taught to give for it.

Two codes. The *pooled* one (`encode`) says what there is: the thing by its pattern (all zero when nothing known
was named; of several the mean), and one-hot per part its recolouring (all zero when none was asked for), the
background, the layout of several, the style. One-hot over a thousand things it cannot be: the encoder reads it
linearly off 192 numbers. The *slots* (`slots`), four for a prompt, say what stands in a group: which thing, which
colour, which place. The pooled code reaches all of the UNet, the slots its cross-attention. So the text encoder and
the generator meet at fixed, readable places, and each can be trained without the other.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.concepts import COLOUR_NAMES, CONCEPTS, NAMES, NATURAL, STYLE_NAMES
from training.paths import HERE

PLACES = 9
"""Places of a group's things: a lattice of three by three, row by row from the top left."""
LAYOUTS: tuple[tuple[int, ...], ...] = ((3, 5), (1, 7), (1, 6, 8), (0, 2, 6, 8))
"""Where two stand side by side, two one above the other, three, four; in reading order."""
SLOTS = max(map(len, LAYOUTS))

LOOKS = HERE / "looks.npy"
"""What every thing looks like, (things, `LOOKING`) float16: principal components of the art, see `looks.fit`."""
LOOKING = 112
"""How many numbers that is."""
SIGNS = 48
"""Numbers beside its looks that tell a thing from others that look alike: a fixed random sign each."""
THING = LOOKING + SIGNS
"""Numbers that say a thing."""
COLOUR_AT = THING
BACKGROUND_AT = COLOUR_AT + len(COLOUR_NAMES)
LAYOUT_AT = BACKGROUND_AT + len(COLOUR_NAMES)
STYLE_AT = LAYOUT_AT + len(LAYOUTS)
CODE = -(-(STYLE_AT + len(STYLE_NAMES)) // 16) * 16
"""Length of the pooled code: its parts, filled up to a multiple of 16."""
SLOT = THING + len(COLOUR_NAMES) + PLACES


def _signs(name: str) -> NDArray[np.float32]:
    """Plus or minus a quarter, from a hash of the thing's name, so that a longer list changes none."""
    bits = np.unpackbits(np.frombuffer(hashlib.sha256(name.encode()).digest()[: SIGNS // 8], np.uint8))
    return np.where(bits, np.float32(0.25), np.float32(-0.25))


def _patterns() -> Tensor:
    """What is known of the looks, zeros of things that are new, and the signs."""
    patterns = torch.zeros(len(NAMES), THING)
    if LOOKS.exists():
        looks = torch.from_numpy(np.load(LOOKS).astype(np.float32))
        patterns[: len(looks), :LOOKING] = looks
    patterns[:, LOOKING:] = torch.from_numpy(np.stack([_signs(name) for name in NAMES]))
    return patterns


PATTERNS = _patterns()
"""(things, 160): things that look alike are said alike, so that what is learnt of one helps to draw the other."""
LOUD = float(PATTERNS[0].pow(2).sum())
"""What a thing's own pattern scores; all are as loud."""

IDLE, WIDTH = 32, 192
"""Widths of the two text encoders' hidden states; cross-attention reads them side by side."""
STATES = IDLE + WIDTH
FLAG = 4.0
"""What marks the slot k among the hidden states: the first encoder's k-th number there; its others are zero."""

WHITE = COLOUR_NAMES.index("white")


class Placed(NamedTuple):
    """One thing of a group: a concept, a new colour for it or none, its place of the nine."""

    concept: int
    colour: int | None = None
    place: int = 4

    def __str__(self) -> str:
        """For people: "blue cat"."""
        return ("" if self.colour is None else COLOUR_NAMES[self.colour] + " ") + NAMES[self.concept]


class Target(NamedTuple):
    """What to draw, as indices: a concept or none, a new colour for it or none, the background, a style or none.

    A `group` of two to four things stands in the concept's stead; concept and colour are then none.
    """

    concept: int | None = None
    colour: int | None = None
    background: int = WHITE
    group: tuple[Placed, ...] = ()
    style: int | None = None

    @property
    def things(self) -> tuple[Placed, ...]:
        """All that is drawn: the group, or the one thing, or nothing."""
        if self.group or self.concept is None:
            return self.group
        return (Placed(self.concept, self.colour),)

    def __str__(self) -> str:
        """For people: "blue cat, dog on white, sepia"."""
        style = "" if self.style is None else f", {STYLE_NAMES[self.style]}"
        return f"{', '.join(map(str, self.things)) or 'nothing'} on {COLOUR_NAMES[self.background]}{style}"


def layout(group: tuple[Placed, ...]) -> int | None:
    """Which of `LAYOUTS` a group has; none for places that no prompt asks for."""
    places = tuple(placed.place for placed in group)
    return LAYOUTS.index(places) if places in LAYOUTS else None


def encode(targets: list[Target]) -> Tensor:
    """(B, CODE) pooled codes."""
    codes = torch.zeros(len(targets), CODE)
    for row, target in zip(codes, targets, strict=True):
        for concept, colour, _ in target.things:
            row[:THING] += PATTERNS[concept] / len(target.things)
            if colour is not None:
                row[COLOUR_AT + colour] += 1 / len(target.things)
        row[BACKGROUND_AT + target.background] = 1
        if (kind := layout(target.group)) is not None:
            row[LAYOUT_AT + kind] = 1
        if target.style is not None:
            row[STYLE_AT + target.style] = 1
    return codes


def slots(targets: list[Target]) -> Tensor:
    """(B, 4, SLOT) codes of a group's things; zeros where there is none."""
    codes = torch.zeros(len(targets), SLOTS, SLOT)
    for rows, target in zip(codes, targets, strict=True):
        for row, placed in zip(rows, target.group, strict=False):
            row[:THING] = PATTERNS[placed.concept]
            if placed.colour is not None:
                row[THING + placed.colour] = 1
            row[THING + len(COLOUR_NAMES) + placed.place] = 1
    return codes


def states(slots: Tensor, others: Tensor) -> Tensor:
    """(B, n + 4, STATES) hidden states as cross-attention reads them.

    `others` (B, n, WIDTH) are the second encoder's at the text's own tokens, which say nothing here; at the last
    four positions its first SLOT numbers are the `slots` (B, 4, SLOT), and the first encoder's are a flag.
    """
    b, n, _ = others.shape
    flags = torch.zeros(b, n + SLOTS, IDLE, device=slots.device)
    flags[:, n:, :SLOTS] = FLAG * torch.eye(SLOTS, device=slots.device)
    filled = torch.cat([slots, slots.new_zeros(b, SLOTS, WIDTH - SLOT)], 2)
    return torch.cat([flags, torch.cat([others, filled], 1)], 2)


def alone(size: int) -> Tensor:
    """(B, 4, STATES) hidden states of prompts that ask for no group."""
    return states(torch.zeros(size, SLOTS, SLOT), torch.zeros(size, 0, WIDTH))


def _group(rows: Tensor) -> tuple[Placed, ...]:
    """What (4, SLOT) slots say: a slot counts where its place is said, a colour from one half."""
    group = []
    for row in rows:
        shades, places = row[THING:].split((len(COLOUR_NAMES), PLACES))
        if places.max() > 0.5:
            colour = int(shades.argmax()) if shades.max() > 0.5 else None
            group.append(Placed(int((PATTERNS @ row[:THING]).argmax()), colour, int(places.argmax())))
    return tuple(group)


def decode(pooled: Tensor, slots: Tensor | None = None) -> list[Target]:
    """The nearest targets of (B, CODE) pooled codes and (B, 4, SLOT) slots.

    A concept or colour counts from one half; the slots are read where the pooled code names a layout.
    """
    targets = []
    for i, row in enumerate(pooled.float()):
        concept, colour = PATTERNS @ row[:THING] / LOUD, row[COLOUR_AT:BACKGROUND_AT]
        background = int(row[BACKGROUND_AT:LAYOUT_AT].argmax())
        styles = row[STYLE_AT : STYLE_AT + len(STYLE_NAMES)]
        style = int(styles.argmax()) if styles.max() > 0.5 else None
        if row[LAYOUT_AT:STYLE_AT].max() > 0.5 and slots is not None:
            targets.append(Target(None, None, background, _group(slots[i].float()), style))
            continue
        targets.append(
            Target(
                int(concept.argmax()) if concept.max() > 0.5 else None,
                int(colour.argmax()) if colour.max() > 0.5 else None,
                background,
                style=style,
            )
        )
    return targets


def is_natural(concept: int, colour: int) -> bool:
    """Whether the art has the colour already, so that naming it changes nothing."""
    return NAMES[concept] in NATURAL[COLOUR_NAMES[colour]]


def _digest(text: str) -> int:
    """A number that a text always gives."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _pair(kind: str, concept: int, count: int) -> frozenset[int]:
    """`count` colours of a concept, chosen by a hash: the same ones in every run."""
    order = np.random.default_rng(_digest(f"{kind} {NAMES[concept]}")).permutation(len(COLOUR_NAMES))
    return frozenset([int(c) for c in order if c != WHITE or kind != "background"][:count])


HELD_BACKGROUNDS: tuple[frozenset[int], ...] = tuple(_pair("background", i, 2) for i in range(len(CONCEPTS)))
"""Two backgrounds per concept that the generator is never trained on: they show whether it composes."""

HELD_STYLES: tuple[int, ...] = tuple(_digest(f"style {name}") % len(STYLE_NAMES) for name in NAMES)
"""A style per concept that the generator is never trained on."""

HELD_COLOURS: tuple[frozenset[int], ...] = tuple(_pair("colour", i, 2) for i in range(len(CONCEPTS)))
"""Two recolourings per concept that the generator is never trained on."""


def held_pair(one: int, other: int) -> bool:
    """Whether two different things are never shown together while the generator learns: one pair in ten."""
    first, second = sorted((NAMES[one], NAMES[other]))
    return one != other and _digest(f"pair {first}, {second}") % 10 == 0


def held_out(target: Target) -> bool:
    """Whether the generator must not see this combination while it learns."""
    things = target.things
    return any(
        target.background in HELD_BACKGROUNDS[thing.concept]
        or thing.colour in HELD_COLOURS[thing.concept]
        or target.style == HELD_STYLES[thing.concept]
        or any(held_pair(thing.concept, other.concept) for other in things)
        for thing in things
    )


def sample(
    rng: np.random.Generator,
    recoloured: float = 0.2,
    plain: float = 0.02,
    white: float = 0.3,
    several: float = 0.0,
    styled: float = 0.15,
    hardness: NDArray[np.float64] | None = None,
) -> Target:
    """A training target: a share of plain pictures, white backgrounds, recolourings, groups, styles.

    Concepts evenly, or in proportion to their `hardness` (2, things), alone and in a group. A third of the groups
    are of one thing: people count.
    """
    while True:
        background = WHITE if rng.random() < white else int(rng.integers(len(COLOUR_NAMES)))
        if rng.random() < plain:
            return Target(None, None, background)
        places = (
            LAYOUTS[rng.choice(len(LAYOUTS), p=(0.4, 0.25, 0.2, 0.15))] if rng.random() < several else (4,)
        )
        weights = np.ones(len(CONCEPTS)) if hardness is None else hardness[int(len(places) > 1)]
        concepts = [int(c) for c in rng.choice(len(CONCEPTS), len(places), p=weights / weights.sum())]
        if rng.random() < 1 / 3:
            concepts = concepts[:1] * len(places)
        colours = [
            int(rng.integers(len(COLOUR_NAMES))) if rng.random() < recoloured else None for _ in concepts
        ]
        group = tuple(
            Placed(concept, None if colour is None or is_natural(concept, colour) else colour, place)
            for concept, colour, place in zip(concepts, colours, places, strict=True)
        )
        style = int(rng.integers(len(STYLE_NAMES))) if rng.random() < styled else None
        target = Target(group[0].concept, group[0].colour, background, style=style)
        target = target if len(group) == 1 else Target(None, None, background, group, style)
        if not held_out(target):
            return target
