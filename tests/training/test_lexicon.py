"""Words that nobody wrote down."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from numpy.typing import NDArray

from training.concepts import COLOUR_WORDS, CONCEPTS, INDEX, NAMES
from training.dictionaries import GloVe, WordNet
from training.evaluate import UNTAUGHT
from training.grammar import RELATIONS, parse
from training.lexicon import (
    COMPANY,
    WEIGHTS,
    Judge,
    Taught,
    associated,
    by_hand,
    fit,
    said_already,
    source_of,
    taught,
)
from training.phrases import BY_HAND, DISTILLED, FUNCTION, KINDS, KINDS_PLURALS, LEXICON, STYLED, plurals

ROWS = [line.split("\t") for line in DISTILLED.read_text().splitlines()]


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


class Alike:
    """To it all texts are alike."""

    def knows(self, word: str) -> bool:
        return True

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 1), np.float32)


OWN = [Taught(i, word, True) for i, concept in enumerate(CONCEPTS) for word in concept.words]


@pytest.fixture
def judge(net: WordNet) -> Judge:
    """A judge who has the tree alone to go by."""
    return Judge(net, Alike(), Alike(), OWN)


def test_the_file_adds_to_the_lists() -> None:
    """Every row names a thing, and no word that means something already."""
    assert {name for _, name, _ in ROWS} <= set(NAMES)
    assert {source for _, _, source in ROWS} == {"tree", "near"}
    words = [word for word, _, _ in ROWS]
    assert words == sorted(set(words))
    assert not set(words) & {*LEXICON, *FUNCTION, *RELATIONS, *COLOUR_WORDS, *STYLED}
    assert DISTILLED.stat().st_size < 600_000  # 25,000 words


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
    near = glove.embed(["purring", "barking", "purring xyzzy"]) @ glove.embed(["cat", "dog"]).T
    assert near[0, 0] > 0.9
    assert abs(near[0, 1]) < 0.5
    assert abs(near[1]).max() < 0.6
    assert not near[2].any()


def test_what_comes_to_mind(net: WordNet, glove: GloVe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thing has to be likely, and the word to keep its company."""
    judge = Judge(net, Alike(), glove, OWN)
    monkeypatch.setattr("training.lexicon.WEIGHTS", [20.0 * (k == COMPANY) for k in range(len(WEIGHTS))])
    assert associated(["purring", "barking"], judge) == {"purring": INDEX["cat"]}
    assert associated(["purring cat"], judge) == {"purring cat": INDEX["cat"]}
    monkeypatch.setattr("training.lexicon.SEEN", 1.1)
    assert associated(["purring", "purring cat"], judge) == {
        "purring cat": INDEX["cat"]
    }  # has a bound of its own
    monkeypatch.setattr("training.lexicon.WEIGHTS", (0.0,) * len(WEIGHTS))
    assert not associated(["purring", "barking"], judge)


@pytest.mark.parametrize(
    ("phrase", "thing", "source", "said"),
    [
        ("xyzzy saw", "saw", "tree", True),
        ("compass saw", "saw", "tree", False),  # its words would draw two things
        ("compass saw", "saw", "near", True),
        ("compass saw", "pencil", "near", False),
        ("xyzzy mutt", "dog", "tree", True),  # of the new words
    ],
)
def test_two_words_that_say_nothing_new(phrase: str, thing: str, source: str, said: bool) -> None:
    """A kind of a thing is news if its words draw anything else, what comes to mind only if they do not draw it."""
    labels = {"mutt": (INDEX["dog"], "tree")}
    assert said_already(phrase, (INDEX[thing], source), labels) == said


def test_what_is_taught(judge: Judge) -> None:
    """A thing's words count by the nearest, or vote: several near ones for more than one."""
    cat, dog = INDEX["cat"], INDEX["dog"]
    judge = Judge(judge.net, judge.model, judge.glove, sorted([*OWN, Taught(cat, "moggie", True)]))
    like = np.zeros((1, len(judge.words)), np.float32)
    for at, word in enumerate(judge.words):
        like[0, at] = {"moggie": 0.9, "cat": 0.9, "dog": 0.95}.get(word.word, 0)
    assert judge.nearest(like)[0, [cat, dog]] == pytest.approx([0.9, 0.95])
    assert judge.voted(like)[0, cat] > judge.voted(like)[0, dog]


def test_all_that_people_wrote_down_is_taught() -> None:
    """Names, keywords, and words by hand, each thing's together; moods and keywords do not name it."""
    words = taught()
    assert words == sorted(set(words))
    assert {word.thing for word in words} == set(range(len(NAMES)))
    assert Taught(INDEX["cat"], "kitty", True) in words
    assert Taught(INDEX["penguin"], "antarctica", False) in words
    assert set(by_hand()) <= set(words)
    assert not {word.word for word in words} & set(UNTAUGHT)


def test_weights_are_fitted() -> None:
    """What tells the right thing weighs, what tells nothing does not."""
    rng = np.random.default_rng(0)
    things = rng.integers(5, size=400).tolist()
    scores = rng.standard_normal((400, 5, 2)).astype(np.float32)
    scores[np.arange(400), things, 0] += 1
    right, idle = fit(scores, things)
    assert right > 0.7
    assert abs(idle) < 0.3


def test_mostly_a_noun(net: WordNet) -> None:
    """Where nobody counted, every sense is a half: one as a noun stands against one as a verb, not against two."""
    net.uses["mop"] = {0: 0.5, 9: 0}
    net.uses["grin"] = {0: 1.0, 9: 0}
    assert net.is_noun("mop")
    assert not net.is_noun("grin")


@pytest.mark.parametrize(
    ("asked", "thing", "sure", "kind", "person", "source"),
    [
        ("tree", "dog", 0.3, False, False, "tree"),
        ("tree", "dog", 0.05, True, False, None),
        ("near", "dog", 0.3, False, False, None),
        ("near", "dog", 0.3, True, False, "near"),
        ("near", "doctor", 0.6, False, True, "tree"),  # "a dentist and a cat"
        ("near", "doctor", 0.3, True, True, "near"),
        ("kind", "dog", 0.7, False, False, None),
        ("kind", "dog", 0.9, False, False, "near"),
        ("pair", "dog", 0.3, True, False, "tree"),
        ("pair", "herb", 0.7, True, False, None),
        ("pair", "dog", 0.9, False, False, "near"),
        ("compound", "dog", 0.3, True, False, "tree"),
        ("compound", "dog", 0.9, False, False, None),  # GloVe is asked first
        ("verb", "dog", 0.7, False, False, None),
        ("verb", "dog", 0.3, True, False, None),
        ("verb", "dog", 0.9, True, False, "near"),
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
    assert (label.thing, label.kind) == (INDEX["dog"], True)
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
