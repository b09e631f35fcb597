"""Slips of the finger, put right before a small model reads them.

CLIP met most misspellings among its 400 million captions. An encoder of a few million parameters cannot, and a slip
falls into tokens that say nothing: the folder of such a model holds the words that it knows (`FILE`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from onestroke.models.folders import read_json

FILE = "tokenizer_2/spelling.json"
"""`known`: words that mean something to the model, the likeliest first; `others`: words that stand as they are."""

WORD = re.compile(r"[^\W\d_]+")
KEPT = 10_000
"""Words that are not looked up again: who types asks for the same ones with every key."""
MOST = 64
"""Words of a prompt that are looked at: more than a small encoder reads."""
SHORTEST, LONGEST = 4, 20
"""Letters of the words that are put right."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SOUNDS = (
    *(("ph", "f"), ("gh", "g"), ("ck", "k"), ("c", "k"), ("qu", "kw"), ("x", "ks"), ("z", "s"), ("wh", "w")),
    *(("ie", "i"), ("ei", "i"), ("y", "i"), ("ea", "e"), ("ee", "e"), ("ou", "o"), ("oo", "o"), ("au", "o")),
)
"""Spellings that are taken for one another, one after the other."""


class Spelling:
    """Puts words right that nobody writes and that are one slip, or a way of spelling, from a known one."""

    def __init__(self, known: Sequence[str], others: Sequence[str]) -> None:
        """Both in lower case; of `known`, the likeliest first."""
        self.ranks = {word: rank for rank, word in enumerate(known)}
        self.written = frozenset((*known, *others))
        self.sorted_known, self.sorted_written = sorted(self.ranks), sorted(self.written)
        self.sounds = {sound(word): word for word in reversed(known) if len(word) > SHORTEST}
        self.word = lru_cache(KEPT)(self._word)

    def correct(self, prompt: str) -> str:
        """The prompt with its slips put right; its last word may still be being typed, and then it is left alone
        as long as some word begins so."""
        return WORD.sub(partial(self._replace, end=len(prompt)), prompt, count=MOST)

    def _replace(self, match: re.Match[str], end: int) -> str:
        word = match[0].lower()
        right = self.word(word, unfinished=match.end() == end)
        return match[0] if right == word else right

    def _word(self, word: str, unfinished: bool = False) -> str:
        """A word in lower case, or what it was meant to be: first what sounds like it, then the likeliest."""
        shortest = SHORTEST + unfinished
        if not (shortest <= len(word) <= LONGEST and word.isascii()) or word in self.written:
            return word
        if unfinished and self._begun(self.sorted_written, word):
            return word
        if (heard := sound(word)) in self.sounds:
            return self.sounds[heard]
        near = [slip for slip in slips(word) if len(slip) >= min(SHORTEST, len(word) - 1)]
        found = [(self.ranks[slip], slip) for slip in near if slip in self.ranks]
        if unfinished:
            found += [(min(ranks), slip) for slip in near if (ranks := self._begun(self.sorted_known, slip))]
        if not found and len(heard) > shortest:
            words = [self.sounds[slip] for slip in slips(heard) if slip in self.sounds]
            found = [(self.ranks[each], each) for each in words]
        return min(found)[1] if found else word

    def _begun(self, words: Sequence[str], start: str) -> list[int]:
        """The ranks of those of sorted words that begin with `start`, the last for one that is not known."""
        ranks = []
        for i in range(bisect_left(words, start), len(words)):
            if not words[i].startswith(start):
                break
            ranks.append(self.ranks.get(words[i], len(self.ranks)))
        return ranks


def sound(word: str) -> str:
    """A rough spelling by ear: the same for "bycicle" and "bicycle", for "dolfin" and "dolphin"."""
    for spelling, heard in SOUNDS:
        word = word.replace(spelling, heard)
    return re.sub(r"(.)\1+", r"\1", word)


def slips(word: str) -> Iterator[str]:
    """All words one slip away, the first letter kept: a letter lost, wrong or too many, or two swapped."""
    for i in range(1, len(word) + 1):
        head, tail = word[:i], word[i:]
        if tail:
            yield head + tail[1:]
            yield from (head + letter + tail[1:] for letter in LETTERS if letter != tail[0])
        if len(tail) > 1 and tail[0] != tail[1]:
            yield head + tail[1] + tail[0] + tail[2:]
        yield from (head + letter + tail for letter in LETTERS)


def read_spelling(folder: Path) -> Spelling | None:
    """What a model's folder says of spelling, None where it says nothing. Raises ModelError or KeyError."""
    path = folder / FILE
    if not path.is_file():
        return None
    lists = read_json(path)
    return Spelling(lists["known"], lists["others"])
