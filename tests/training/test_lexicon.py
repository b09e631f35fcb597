"""Words that nobody wrote down."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from training.concepts import COLOUR_WORDS, CONCEPTS, INDEX, NAMES
from training.dictionaries import GloVe, WordNet
from training.evaluate import UNTAUGHT
from training.grammar import RELATIONS, parse
from training.lexicon import FILE, Judge, associated, nearest, source_of
from training.phrases import BY_HAND, FUNCTION, KINDS, KINDS_PLURALS, LEXICON, STYLED, plurals

ROWS = [line.split("\t") for line in FILE.read_text().splitlines()]


@pytest.fixture
def net() -> WordNet:
    """A small tree: 1 animal, 2 dog, 3 mutt, 4 cat, 5 tree, 6 the wood of one, 7 the meat of a dog."""
    net = object.__new__(WordNet)
    net.above = {1: [], 2: [1], 3: [2], 4: [1], 5: [], 6: [], 7: []}
    net.files = {1: 5, 2: 5, 3: 5, 4: 5, 5: 20, 6: 20, 7: 13}
    net.senses = {
        "dog": [7, 2],
        "doggy": [2],
        "cat": [4],
        "tree": [5],
        "mutt": [3],
        "animal": [1],
        "bark": [6, 2],
    }
    net.uses = defaultdict(dict, {"bark": {6: 9, 2: 0}})
    net.words = {i: [f"word {i}"] for i in range(1, 8)}
    net.gloss = {i: f"it is {i}" for i in range(1, 8)}
    return net


@pytest.fixture
def judge(net: WordNet, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A judge to whom all texts are alike."""
    judge = Judge(net, None)
    monkeypatch.setattr(judge, "embed", lambda texts: np.ones((len(texts), 1), np.float32))
    judge.seen = defaultdict(lambda: np.ones(1, np.float32))
    return judge


def test_the_file_adds_to_the_lists() -> None:
    """Every row names a thing, and no word that means something already."""
    assert {name for _, name, _ in ROWS} <= set(NAMES)
    assert {source for _, _, source in ROWS} == {"tree", "near"}
    words = [word for word, _, _ in ROWS]
    assert words == sorted(set(words))
    assert not set(words) & {*LEXICON, *FUNCTION, *RELATIONS, *COLOUR_WORDS, *STYLED}
    assert FILE.stat().st_size < 300_000


def test_a_thing_is_of_one_file(judge: Judge) -> None:
    """What most of a dog's words are, and no meat, though that is the first sense of its name."""
    assert "doggy" in CONCEPTS[INDEX["dog"]].words
    assert judge.anchors == {2: [INDEX["dog"]], 4: [INDEX["cat"]], 5: [INDEX["tree"]]}


@pytest.fixture
def glove(monkeypatch: pytest.MonkeyPatch) -> GloVe:
    """Vectors in which "purring" goes with "cat", "barking" with nothing, and all have much in common."""
    rng = np.random.default_rng(0)
    words = ["cat", "dog", "purring", "barking", *(f"word {i}" for i in range(300))]
    table = rng.standard_normal((len(words), 100)).astype(np.float32)
    table[2] = table[0] + 0.1 * table[2]
    strong = 30 * rng.standard_normal((3, 100)).astype(np.float32)
    table += rng.standard_normal((len(words), 3)).astype(np.float32) @ strong + 50
    vectors = {word: [*row, 1.0, 0] for word, row in zip(words, table.tolist(), strict=True)}
    monkeypatch.setattr("training.dictionaries.read_json", lambda *_: {"vectors": vectors})
    return GloVe()


def test_the_company_of_words(glove: GloVe) -> None:
    """What all words have in common is taken off; of a text with an unknown word nothing is known."""
    near = nearest(glove.embed(["purring", "barking", "purring xyzzy"]), glove.embed)
    assert near[0, INDEX["cat"]] > 0.9
    assert abs(near[0, INDEX["dog"]]) < 0.5
    assert abs(near[1]).max() < 0.6
    assert not near[2].any()


def test_what_comes_to_mind(judge: Judge, glove: GloVe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thing has to be likely, and the word to keep its company."""
    scores = np.zeros((2, len(NAMES), 7), np.float32)
    scores[:, INDEX["cat"]] = 1
    monkeypatch.setattr(judge, "scores", lambda _: scores)
    assert associated(["purring", "barking"], judge, glove) == {"purring": INDEX["cat"]}
    scores[:] = 0
    monkeypatch.setattr("training.lexicon.COMPANY", 0.0)
    assert not associated(["purring", "barking"], judge, glove)


def test_mostly_a_noun(net: WordNet) -> None:
    """Where nobody counted, every sense is a half: one as a noun stands against one as a verb, not against two."""
    net.uses["mop"] = {0: 0.5, 9: 0}
    net.uses["grin"] = {0: 1.0, 9: 0}
    assert net.is_noun("mop")
    assert not net.is_noun("grin")


@pytest.mark.parametrize(
    ("asked", "thing", "sure", "kind", "person", "source"),
    [
        ("tree", "dog", 0.2, False, False, "tree"),
        ("tree", "dog", 0.05, True, False, None),
        ("near", "dog", 0.2, False, False, None),
        ("near", "dog", 0.2, True, False, "near"),
        ("near", "doctor", 0.6, False, True, "tree"),  # "a dentist and a cat"
        ("near", "doctor", 0.2, True, True, "near"),
        ("kind", "dog", 0.9, False, False, None),
        ("pair", "dog", 0.2, True, False, "tree"),
        ("pair", "herb", 0.9, True, False, None),
    ],
)
def test_which_labels_are_kept(
    asked: str, thing: str, sure: float, kind: bool, person: bool, source: str | None
) -> None:
    """What can be touched, and surely people, count beside other things; the rest alone or not at all."""
    assert source_of(asked, thing, sure, kind, person) == source


def test_what_is_alike_in_the_tree(judge: Judge) -> None:
    """A mutt is a kind of dog, and rather a cat than a tree."""
    alike, kind = judge.tree(3)
    assert kind[INDEX["dog"]] == pytest.approx(0.8)
    assert kind.sum() == kind[INDEX["dog"]]
    assert alike[INDEX["dog"]] > alike[INDEX["cat"]] > alike[INDEX["tree"]] == 0


def test_scores_follow_the_tree_where_words_say_nothing(judge: Judge) -> None:
    """All texts being alike here."""
    (label,) = judge.label(["mutt"])
    assert (label.thing, label.kind, label.company) == (INDEX["dog"], True, 0)
    assert judge.senses("bark") == [(6, pytest.approx(1.0))]


def test_the_lexicon_in_prompts() -> None:
    """Its words draw their thing, several of them two; a word of ours, or its beginning, comes first."""
    assert parse("mutt").concept == INDEX["dog"]
    assert str(parse("two mutts and a minibus")) == "dog, dog, minibus on white"
    assert parse("mut").concept != INDEX["dog"]


def test_what_was_put_right_by_hand() -> None:
    """It names things, and adds to what other lists hold; wrong words draw nothing, looser ones only alone."""
    rows = [line.split("\t") for line in BY_HAND.read_text().splitlines()]
    words = [word for word, _, _ in rows]
    assert words == sorted(set(words))
    assert {name for _, name, _ in rows} <= {*NAMES, "-"}
    assert {source for _, _, source in rows} == {"tree", "near"}
    assert not set(words) & {*LEXICON, *FUNCTION, *RELATIONS, *COLOUR_WORDS, *STYLED}
    for word, name, source in rows:
        if name != "-":
            assert KINDS[word][:2] == ("thing" if source == "tree" else "mood", INDEX[name])
        else:
            assert word not in KINDS or word in KINDS_PLURALS


def test_held_out_words_are_in_no_list_of_ours() -> None:
    """Nobody wrote them down; the tree may know them."""
    assert not set(UNTAUGHT) & set(LEXICON)
    by_hand = {line.split("\t")[0] for line in BY_HAND.read_text().splitlines()}
    assert not set(UNTAUGHT) & by_hand
    assert {word for word in UNTAUGHT if word in KINDS_PLURALS} <= {
        plurals(word)[0] for word in KINDS.keys() - by_hand
    }
