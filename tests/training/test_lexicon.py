"""Words that nobody wrote down."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from training.concepts import COLOUR_WORDS, INDEX, NAMES
from training.examine import UNTAUGHT
from training.grammar import RELATIONS, parse
from training.lexicon import FILE, WordNet, anchors, kind_of, threshold
from training.phrases import FUNCTION, LEXICON

ROWS = [line.split("\t") for line in FILE.read_text().splitlines()]


@pytest.fixture
def net() -> WordNet:
    """A small tree: 1 animal, 2 dog, 3 mutt, 4 cat, 5 tree, 6 the wood of one."""
    net = object.__new__(WordNet)
    net.above = {1: [], 2: [1], 3: [2], 4: [1], 5: [], 6: []}
    net.senses = {
        "dog": [2],
        "cat": [4],
        "tree": [5],
        "mutt": [3],
        "animal": [1],
        "oak": [6, 5],
        "bark": [6, 2],
    }
    net.uses = defaultdict(dict, {"bark": {6: 9, 2: 0}})
    return net


def test_the_file_adds_to_the_lists() -> None:
    """Every row names a thing, and no word that means something already."""
    assert {name for _, name, _ in ROWS} <= set(NAMES)
    assert {source for _, _, source in ROWS} == {"tree", "near"}
    words = [word for word, _, _ in ROWS]
    assert words == sorted(set(words))
    assert not set(words) & {*LEXICON, *FUNCTION, *RELATIONS, *COLOUR_WORDS}
    assert FILE.stat().st_size < 150_000


def test_a_word_is_what_it_is_a_kind_of(net: WordNet) -> None:
    """By the sense that is used most; a plant only where little speaks against it."""
    known = anchors(net)
    assert known == {2: INDEX["dog"], 4: INDEX["cat"], 5: INDEX["tree"]}
    assert kind_of(net, known, "mutt") == INDEX["dog"]
    assert kind_of(net, known, "animal") is None
    assert kind_of(net, known, "bark") is None
    assert kind_of(net, known, "oak") is None
    assert net.distance(3, 4) == 3


def test_the_threshold_keeps_wrong_ones_out() -> None:
    """A wrong label costs as much as two right ones bring."""
    near = np.array([0.5, 0.6, 0.7, 0.8], np.float32)
    assert 0.6 < threshold(np.array([1, 1, 2, 2]), near, np.array([1, 0, 2, 2])) <= 0.7


def test_the_lexicon_in_prompts() -> None:
    """Its words draw their thing, several of them two; a word of ours, or its beginning, comes first."""
    assert parse("mutt").concept == INDEX["dog"]
    assert str(parse("two mutts and a minibus")) == "dog, dog, bus on white"
    assert parse("min").concept != INDEX["bus"]


def test_held_out_words_are_in_no_list_of_ours() -> None:
    """Nobody wrote them down; the tree may know them."""
    assert not set(UNTAUGHT) & set(LEXICON)
