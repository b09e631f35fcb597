"""What a prompt means: `parse`, a pure function from any text, finished or half typed, to what should be drawn.

It is the text encoder's teacher and the judge's ground truth; the server does not use it. In short:

- The first known thing is drawn; words for moods ("happy", "sleeping") and loose keywords ("antarctica") count only
  where no thing is named.
- A further thing is drawn where a word joins it: "and", "with", a preposition, a comma, "eating". The first four
  count. Two stand side by side, or as the word says ("left of", "above", "on", "under"); three and four have their
  places.
- "two cats" are two, "many" are four, and so a plural alone is two.
- A colour before a thing recolours it, unless the art has that colour ("red apple").
- "on/in/against (a) COLOUR ...", "with a COLOUR background", ", COLOUR" set the background; white otherwise.
- The last word, unless a stop follows it, may be the beginning of a word: it is completed by popularity, things'
  names first, then colours, then other words. Once a thing is known, an unfinished word never replaces it.
- One slip of the finger in a longer word is forgiven, unless the result is an English word of its own.
- What only holds or shows a thing, or says more of it, is passed over: "a bowl of ramen" is ramen, "a statue of a
  cat" a cat, "baby dragon" a dragon.
- Words for a style ("pixel art", "black and white") say it wherever they stand, and nothing else.
- Words that mean nothing here are passed over; without a known thing the picture is the plain background.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from training.codes import LAYOUTS, SLOTS, WHITE, Placed, Target, is_natural
from training.concepts import COLOUR_NAMES, COLOUR_THINGS, COLOUR_WORDS, INDEX, NAMES
from training.phrases import (
    FUNCTION,
    KINDS,
    KINDS_PLURALS,
    LEXICON,
    NAMED,
    PLURALS,
    Piece,
    complete,
    complete_coloured,
    plurals,
    split,
)

Relation = Literal["beside", "right", "above", "below"]

ARTICLES = ("a", "an", "the")
ONTO = frozenset(("on", "in", "against", "over"))
BACKDROP = ("background", "backdrop", "bg", "wall", "backgrounds")
GAP = 3
"""How many unknown words may stand between a colour and the thing that it colours."""

_RELATIONS: dict[Relation, str] = {
    "beside": """
and with plus next near by beside behind front left at from for vs versus has have wears eats plays holds sees meets
loves likes hugs kisses chases
""",
    "right": "right",
    "above": "on in over above onto atop upon inside into riding rides sitting standing",
    "below": "under below beneath underneath",
}
RELATIONS = {word: relation for relation, words in _RELATIONS.items() for word in words.split()}
"""Words that join a thing to the one before, and where the earlier one then stands; the last of several decides."""

_FOUR = "four five six seven eight nine ten eleven twelve dozen hundred"
_MANY = "many some several few lots group"
COUNTS = {"one": 1, "single": 1, "two": 2, "three": 3, **dict.fromkeys(_FOUR.split(), 4)}
VAGUE = {"couple": 2, "pair": 2, "both": 2, "trio": 3, **dict.fromkeys(_MANY.split(), 4)}
"""These count only before a plural: "a pair of glasses" and "some bread" are one."""
_DESCRIBING = """
baby wedding party cowboy pirate ninja superhero zombie wizard witch princess school brick golf tennis hockey
chocolate cheese egg butter garlic honey lemon strawberry coconut ginger olive rainbow skull flower birthday
police night fire astronaut jungle toy lava galaxy marble crystal glass metal iron diamond jade leather velvet wool
yarn cardboard lego pencil ink chalk crayon candy cookie bubble cloud balloon
"""
DESCRIBING = frozenset(_DESCRIBING.split())
"""Things that only say more of a thing right after them: "baby dragon", "cheese sandwich", "crystal blue skull"."""
DRAWN = ("drawing", "painting", "picture", "illustration", "art")
"""What they may say more of in its stead: "a crayon drawing of a house"."""
_HOLDING = """
bowl cup glass mug plate dish bottle basket box bag pot jar can pile stack bunch bucket tub carton pack packet
loaf pint scoop vase stick tin barrel crate deck statue portrait
"""
HOLDING = {word: plurals(word)[0] for word in _HOLDING.split()}
"""What holds or shows a thing, and their plurals: "a bowl of ramen" is ramen, "two baskets of kittens" kittens."""
PARTS = frozenset(("eyes", "hand"))
"""Parts of other things: "a cat with big eyes" is a cat."""
FRUITS = {
    word: COLOUR_NAMES.index(name) for word, name in COLOUR_WORDS.items() if LEXICON[word][0] == "thing"
}
"""Words that are things too: orange, lime. They are colours before a thing and of a background."""
OPENINGS = ("the", "this", "that", "two", "three", "my", "some")
"""What a few letters after "and" may also be on the way to, so that no thing is drawn for them."""


class Named(NamedTuple):
    """A thing as the prompt names it: concept, its colour or none, how many, where the one before it stands."""

    concept: int
    colour: int | None
    times: int
    relation: Relation


def _is_backdrop(piece: Piece | None) -> bool:
    """Whether a piece is "background" or so, or begins that word."""
    if piece is None:
        return False
    if piece.text in BACKDROP:
        return True
    return piece.open and any(word.startswith(piece.text) for word in BACKDROP)


def _colour_of(piece: Piece) -> int | None:
    """The colour that a piece names, if it does."""
    if piece.open and piece.text in ("oran", "orang"):
        return COLOUR_NAMES.index("orange")
    if piece.text in FRUITS:
        return FRUITS[piece.text]
    return piece.entry[1] if piece.kind == "colour" else None


def _opening_colour(text: str) -> int | None:
    """The likeliest colour that begins with `text`."""
    for word, name in COLOUR_WORDS.items():
        if word.startswith(text):
            return COLOUR_NAMES.index(name)
    return None


def _is_described(piece: Piece) -> bool:
    """Whether a piece is a thing that the word before it may say more of."""
    return (
        piece.kind == "thing"
        and not piece.comma
        and not (piece.open and any(word.startswith(piece.text) for word in FUNCTION))
    )


def _number(text: str) -> tuple[int, bool] | None:
    """How many a word says, four at most, and whether it says so only before a plural."""
    if text.isdigit():
        return (min(int(text), SLOTS), False) if int(text) else None
    if text in COUNTS:
        return COUNTS[text], False
    return (VAGUE[text], True) if text in VAGUE else None


class _Reader:
    """One prompt being read, piece by piece."""

    def __init__(self, pieces: list[Piece], styled: bool) -> None:
        """Nothing is read yet; `styled` if a style was named beside the pieces."""
        self.pieces, self.styled = pieces, styled
        self.things: list[Named] = []
        self.mood: int | None = None
        self.waiting: tuple[int, int] | None = None  # a colour and where it stands, before its thing
        self.number: tuple[int, bool] | None = None
        self.held: int | None = None  # where the thing stands that something holds
        self.relation: Relation | None = None  # how the next thing is joined, if it is
        self.background: int | None = None

    def at(self, i: int) -> Piece | None:
        """The piece `i`, if there is one."""
        return self.pieces[i] if i < len(self.pieces) else None

    def holds(self, i: int) -> int | None:
        """Where the thing stands, a few words later, that piece `i` only holds, if it does."""
        text = self.pieces[i].text
        if (
            (text not in HOLDING and text not in HOLDING.values())
            or (of := self.at(i + 1)) is None
            or of.text != "of"
        ):
            return None
        for j, piece in enumerate(self.pieces[i + 2 : i + 3 + GAP], i + 2):
            if piece.comma or piece.text in RELATIONS:
                return None
            if piece.kind == "thing" and not (
                piece.open and piece.text not in LEXICON and piece.text not in KINDS
            ):
                return j
            if piece.kind == "mood" and self.pieces[j - 1].text in ("of", *ARTICLES):
                return j  # "a bowl of fruit"
        return None

    def describes(self, i: int) -> bool:
        """Whether piece `i` only says more of a thing that comes next, or after its colour, or of its picture."""
        if self.pieces[i].text not in DESCRIBING or (following := self.at(i + 1)) is None:
            return False
        if following.kind == "colour" and not following.comma and (after := self.at(i + 2)) is not None:
            following = after
        return _is_described(following) or (following.text in DRAWN and not following.comma)

    def backdrop(self, i: int) -> int | None:
        """Read a background at piece `i`, if there is one; the first piece after it."""
        piece = self.pieces[i]
        preposition = piece.text in ONTO or piece.text == "with"
        if not (preposition or (piece.comma and self.things)):
            return None
        j = i + preposition
        article = (first := self.at(j)) is not None and first.text in ARTICLES
        while (named := self.at(j)) is not None and named.text in ARTICLES:
            j += 1
        if named is None:
            return None
        shade, after = _colour_of(named), self.at(j + 1)
        if shade is None and named.open and self.things and named.text not in FUNCTION:
            # "on a p" is on the way to pink, "with a p" to a pizza.
            thing = named.kind == "thing" and named.entry[2] < NAMED
            if not thing or piece.text in ONTO or not (preposition or article):
                shade = _opening_colour(named.text)
        if shade is None:
            return None
        if self.things and after is not None and after.kind == "thing" and not _is_backdrop(after):
            return None  # "on a blue car"
        if named.text in FRUITS and piece.text == "with" and not _is_backdrop(after):
            return None  # "with an orange"
        settled = piece.text in ONTO or after is None or _is_backdrop(after) or after.comma
        if settled and (self.things or self.mood is not None or _is_backdrop(after)):
            self.background = shade if self.background is None else self.background
            return j + 2 if _is_backdrop(after) else j + 1
        return (
            j + 1 if piece.text == "with" and self.things else None
        )  # "with a blue scarf", which is not drawn

    def colour(self, i: int, shade: int) -> int:
        """Take the colour at piece `i`: of a background, of a thing; the first piece after it."""
        following = self.at(i + 1)
        if _is_backdrop(following) and not (
            following and following.open and not self.things and len(following.text) < 3
        ):
            self.background = shade if self.background is None else self.background
            return i + 2
        if not self.things or self.relation is not None:
            if self.waiting is None or self.waiting[1] < i - GAP:
                self.waiting = (shade, i)
        elif self.waiting is None and self.things[-1].colour is None:
            self.things[-1] = self.things[-1]._replace(colour=shade)  # "car red"
        return i + 1

    def known(self, i: int) -> None:
        """Take the thing or the mood at piece `i`."""
        piece = self.pieces[i]
        entry = piece.entry
        begun = piece.open and piece.text not in LEXICON
        if begun and self.things and len(piece.text) > 1 and any(w.startswith(piece.text) for w in OPENINGS):
            return
        if piece.open and (not self.things or self.relation is not None):
            if self.waiting is not None and begun:
                entry = complete_coloured(self.waiting[0], piece.text) or entry
            if entry[0] == "function" and not self.things and (i == 0 or self.waiting):
                # "a", "an" and "to" may be words, or the first letters of a thing's name.
                entry = complete(piece.text) or entry
        if entry[0] == "mood" and self.mood is None:
            self.mood = entry[1]
        if (entry[0] != "thing" and not (entry[0] == "mood" and i == self.held)) or (
            self.things and (self.relation is None or NAMES[entry[1]] in PARTS)
        ):
            return
        colour = self.waiting[0] if self.waiting is not None and self.waiting[1] >= i - 1 - GAP else None
        several = piece.text in PLURALS | KINDS_PLURALS and not (
            piece.open and complete(piece.text)
        )  # "dinos", "thumbs"
        count = 2 if several else 1
        if self.number is not None and (several or not self.number[1]):
            count = self.number[0]
        self.things.append(Named(entry[1], colour, count, self.relation or "beside"))
        self.number = self.relation = None
        if self.things[1:]:
            self.waiting = None

    def read(self) -> None:
        """Read all pieces."""
        i = 0
        while i < len(self.pieces):
            piece, following = self.pieces[i], self.at(i + 1)
            if self.things and (piece.comma or piece.text in RELATIONS):
                self.relation, self.number, self.waiting = RELATIONS.get(piece.text, "beside"), None, None
            if (after := self.backdrop(i)) is not None:
                i = after
                continue
            shade = _colour_of(piece)
            fruit = (piece.text in FRUITS or piece.text.startswith("orang")) and (
                following is None
                or following.kind == "function"
                or (following.open and following.text == "o")
            )
            if shade is not None and not (
                fruit
                and not _is_backdrop(following)
                and (not self.things or self.relation is not None)
                and self.waiting is None
            ):
                i = self.colour(i, shade)
                continue
            number = _number(piece.text) if piece.kind in ("function", "unknown") else None
            self.number = number or self.number
            joins = (
                number
                or piece.text in ARTICLES
                or (piece.text.endswith("ing") and piece.kind in ("unknown", "mood"))
            )
            if joins and self.things and self.relation is None:
                self.relation, self.waiting = "beside", None
            if self.describes(i):
                i += 1
                continue
            if (held := self.holds(i)) is not None:
                self.held = held
                if piece.text not in HOLDING:  # "glasses of wine"
                    self.number = (self.number[0] if self.number else 2, False)
                i += 2
                continue
            if piece.kind in ("thing", "mood") or (piece.kind == "function" and piece.open):
                self.known(i)
            i += 1

    def finish(self) -> None:
        """Where no thing is named: a mood, or what a colour alone is on the way to."""
        if self.things:
            return
        if self.mood is not None:
            self.things = [Named(self.mood, self.waiting[0] if self.waiting else None, 1, "beside")]
        elif self.waiting is not None and self.background is None:
            if self.styled or any(piece.kind == "unknown" for piece in self.pieces):
                self.background = self.waiting[0]
            else:
                thing = INDEX[COLOUR_THINGS[COLOUR_NAMES[self.waiting[0]]]]
                self.things = [Named(thing, None, 1, "beside")]


def _placed(things: list[Named]) -> tuple[Placed, ...]:
    """Where each of the first four things stands, in reading order."""
    every = [thing for thing in things for _ in range(thing.times)][:SLOTS]
    relation: Relation = every[-1].relation if len(things) > 1 else "beside"
    if len(every) == 2 and relation in ("right", "below"):
        every.reverse()
    places = {1: (4,), 2: LAYOUTS[relation in ("above", "below")], 3: LAYOUTS[2], 4: LAYOUTS[3]}[len(every)]
    return tuple(
        Placed(
            thing.concept,
            None if thing.colour is None or is_natural(thing.concept, thing.colour) else thing.colour,
            place,
        )
        for thing, place in zip(every, places, strict=True)
    )


def _style(pieces: list[Piece]) -> tuple[int | None, list[Piece]]:
    """The first style that pieces name, and the pieces without any; what follows one keeps its comma."""
    style, others, comma = None, list[Piece](), False
    for piece in pieces:
        if piece.kind == "style":
            style, comma = piece.entry[1] if style is None else style, comma or piece.comma
        else:
            others.append(Piece(piece.text, piece.entry, piece.open, piece.comma or (comma and bool(others))))
            comma = False
    return style, others


def parse(prompt: str) -> Target:
    """What should be drawn for a prompt; see the module's text for the rules."""
    style, pieces = _style(split(prompt))
    reader = _Reader(pieces, style is not None)
    reader.read()
    reader.finish()
    background = WHITE if reader.background is None else reader.background
    if not reader.things:
        return Target(None, None, background)
    group = _placed(reader.things)
    if len(group) == 1:
        return Target(group[0].concept, group[0].colour, background, style=style)
    return Target(None, None, background, group, style)
