"""Prompts that no server has seen before: plausible, varied, seeded, and never the same twice.

Every prompt begins with an invented name that stands for a number which is used once ("Kavomi's red fox ..."),
so whole prompts differ, and so does every prefix of a text that is typed key by key.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

_SYLLABLES = tuple(consonant + vowel for consonant in "bdfghjklmnprstvwyzcx" for vowel in "aeiou")
_PER_STREAM = 100**3
_NAMES = 100**5
_STRIDE = 2_147_483_647
"""Prime and so coprime to _NAMES: multiplying by it shuffles the names without repeating one."""


def _choices(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


_HOW = _choices(
    "red|tiny|golden|sleepy|old|shiny|blue|round|wooden|happy|purple|fluffy|striped|silver|glowing|paper"
)
_WHAT = _choices(
    "fox|teapot|rocket|owl|strawberry cake|cactus|robot|whale|umbrella|violin|mushroom house|hot air balloon|"
    "pirate ship|snail|lighthouse|panda|bicycle|pineapple|dragon|coffee cup|snowman|carousel|octopus|piano"
)
_DOING = _choices(
    "dancing|reading a letter|floating|waiting for the bus|in the rain|at sunrise|under a rainbow|by the sea|"
    "on a hill|in a bottle|among flowers|over the city|wearing a hat|in deep snow|on the moon|behind a window"
)
_LOOK = _choices(
    "watercolour|flat colours|soft light|paper cut|pencil sketch|bold outlines|pastel|stained glass|night sky|"
    "yellow background|plain green background|close up|seen from above|pixel art|oil paint|in the fog"
)


@dataclass(frozen=True, slots=True)
class Line:
    """What somebody types: `opening` stands there already, each character of `text` is one key."""

    opening: str
    text: str

    def keys(self) -> Iterator[str]:
        """The prompt after each key."""
        for end in range(1, len(self.text) + 1):
            yield self.opening + self.text[:end]


class Prompts:
    """One stream of prompts. Streams of one seed share no prompt: give every consumer its own number.

    Raises ValueError for a stream number that has no names of its own (there are 10,000 streams of a million).
    """

    def __init__(self, seed: int, stream: int) -> None:
        if not 0 <= stream < _NAMES // _PER_STREAM:
            raise ValueError(f"stream must be 0 to {_NAMES // _PER_STREAM - 1}, not {stream}")
        self._random = random.Random(f"{seed}/{stream}")
        self._offset = random.Random(seed).randrange(_NAMES)
        self._next = stream * _PER_STREAM
        self._end = self._next + _PER_STREAM

    def line(self) -> Line:
        """The next text for a typist; some 30 to 60 keys."""
        return Line(f"{self._name()}'s ", self._text())

    def prompt(self) -> str:
        """The next whole prompt."""
        line = self.line()
        return line.opening + line.text

    def take(self, n: int) -> list[str]:
        return [self.prompt() for _ in range(n)]

    def keys(self) -> Iterator[str]:
        """What stands in the text field after each key of somebody who types line after line, for ever."""
        while True:
            yield from self.line().keys()

    def _text(self) -> str:
        pick = self._random.choice
        return f"{pick(_HOW)} {pick(_WHAT)} {pick(_DOING)}, {pick(_LOOK)}, {pick(_LOOK)}"

    def _name(self) -> str:
        if self._next >= self._end:
            raise RuntimeError("this stream of prompts is used up")
        number = (self._next * _STRIDE + self._offset) % _NAMES
        self._next += 1
        name = ""
        for _ in range(5):
            number, syllable = divmod(number, len(_SYLLABLES))
            name += _SYLLABLES[syllable]
        return name.capitalize()
