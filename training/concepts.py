"""The things that the model can draw, the words that people use for them, its colours and its styles.

The table (`things.tsv`) is data written by hand; `words` of a concept are what should draw it, the first being its
name. `keywords.py` has looser ones.

The order matters: it is the ranking by popularity. A typed prefix draws the first concept in this order that has a
word beginning with it, so "r" draws a rocket, "c" a cat and "d" a dog, always.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.paths import HERE


@dataclass(frozen=True)
class Concept:
    """One drawable thing: its art's name in the icon set, and the words for it, the name first."""

    art: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The concept's plain English name."""
        return self.words[0]


def _read() -> dict[Concept, tuple[str, ...]]:
    """The table of things: each with the colours that its art has."""
    rows = (line.split("\t") for line in TABLE.read_text().splitlines())
    return {
        Concept(art, tuple(words.split(", "))): tuple(filter(None, colours.split(", ")))
        for art, colours, words in rows
    }


TABLE = HERE / "things.tsv"
"""A thing to a line: its art's name in the icon set, the colours that the art has already, its words."""
_THINGS = _read()
CONCEPTS: tuple[Concept, ...] = tuple(_THINGS)
"""The concepts, most popular first; a concept's index here is its class everywhere in `training`."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "blue": (65, 125, 225),
    "red": (225, 55, 50),
    "green": (75, 175, 85),
    "black": (18, 18, 20),
    "pink": (248, 150, 190),
    "yellow": (252, 220, 70),
    "purple": (150, 85, 200),
    "orange": (250, 145, 40),
    "teal": (50, 175, 175),
    "gray": (135, 135, 140),
    "navy": (28, 38, 92),
    "brown": (140, 92, 55),
    "white": (255, 255, 255),
}
"""Named colours as sRGB in 0..255, most popular first. White is also what a picture without a named
background gets."""

COLOUR_WORDS: dict[str, str] = {
    **{name: name for name in COLOURS},
    "grey": "gray",
    "silver": "gray",
    "violet": "purple",
    "lilac": "purple",
    "lavender": "purple",
    "magenta": "pink",
    "turquoise": "teal",
    "cyan": "teal",
    "aqua": "teal",
    "gold": "yellow",
    "golden": "yellow",
    "crimson": "red",
    "scarlet": "red",
    "lime": "green",
    "beige": "brown",
    "dark blue": "navy",
    "light blue": "blue",
    "sky blue": "blue",
    "dark green": "green",
    "light green": "green",
    "dark red": "red",
    "hot pink": "pink",
}
"""What people call the colours, and which of ours is meant."""

COLOUR_THINGS: dict[str, str] = {
    "red": "apple",
    "orange": "orange",
    "yellow": "banana",
    "green": "frog",
    "blue": "whale",
    "purple": "grapes",
    "pink": "flamingo",
    "brown": "bear",
    "gray": "elephant",
    "black": "spider",
    "white": "ghost",
    "teal": "dolphin",
    "navy": "whale",
}
"""What a colour word completes to while nothing else is typed yet ("red" on the way to "red apple")."""

NATURAL: dict[str, frozenset[str]] = {
    name: frozenset(concept.name for concept, colours in _THINGS.items() if name in colours)
    for name in COLOURS
}
"""Things whose art has the colour already: there the word asks for no recolouring ("red apple")."""

_STYLES = """
pixel art, pixelart, pixel, pixels, pixelated, pixelated art, pixel graphics, pixelized, 8 bit, 8bit, 8
  bits, 16 bit, 16bit, 8-bit, 16-bit, retro game, minecraft, voxel
black and white, b and w, bw, grayscale, greyscale, gray scale, grey scale, monochrome, monochromatic, noir,
  film noir, colorless, colourless, desaturated
sepia, sepia tone, sepia toned, vintage, vintage photo, vintage photograph, old photo, old photograph, old
  picture, antique, antique photo, retro, old fashioned, daguerreotype
silhouette, silhouettes, silhouetted, silouette, silhouette art, shadow, shadows, shadow puppet, shadow art,
  stencil, backlit, cutout, paper cutout
sketch, sketches, sketched, line drawing, line art, lineart, pencil drawing, pencil sketch, pencil art, pen
  drawing, ink drawing, pen and ink, outline, outlined, outlines, doodle, hand drawn, hand-drawn, scribble,
  coloring page, colouring page, coloring book, charcoal, charcoal drawing, contour drawing, line sketch
"""
STYLES: dict[str, tuple[str, ...]] = {
    words.split(", ")[0]: tuple(words.split(", "))
    for words in _STYLES.strip().replace("\n  ", " ").splitlines()
}
"""Styles and the words for them, the name first."""
STYLE_NAMES: tuple[str, ...] = tuple(STYLES)

NAMES: tuple[str, ...] = tuple(concept.name for concept in CONCEPTS)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
