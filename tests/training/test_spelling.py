"""The lists of the server's spelling are the grammar's, and what ships is what is kept."""

from __future__ import annotations

import json

from onestroke.pipelines.spelling import FILE
from training import spelling
from training.paths import SHIPPED
from training.phrases import KINDS, LEXICON


def test_names_come_first_and_rare_words_only_stand() -> None:
    """A rare word of the lexicon is no slip, and nothing is a slip of it."""
    distilled = sorted(word for word in KINDS if word.isalpha() and word.isascii() and len(word) > 3)
    common, rare = distilled[:50], distilled[50:100]
    counted = [*common, *["filler"] * spelling.COMMON, *rare, "shrek"]
    found = spelling.lists(counted)
    known = {word: place for place, word in enumerate(found["known"])}
    assert known["and"] < known["cat"] < min(known[word] for word in common)
    assert not known.keys() & {*rare, "shrek"}
    assert {*rare, "shrek"} <= {*found["others"]}
    assert not known.keys() & {*found["others"]}


def test_the_kept_lists_know_what_the_grammar_knows() -> None:
    """Otherwise a known word would be put right to another: `python -m training spelling` makes them anew."""
    kept = spelling.load()
    assert {
        word for word in LEXICON if word.isalpha() and word.isascii() and len(word) > 1
    } <= kept.ranks.keys()
    assert {word for word in KINDS if word.isalpha() and word.isascii() and len(word) > 3} <= kept.written


def test_what_ships_is_what_is_kept() -> None:
    """`export` copies it."""
    assert json.loads((SHIPPED / FILE).read_text()) == json.loads(spelling.LISTS.read_text())
