"""How likely words mean things."""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training import dictionaries
from training.concepts import CONCEPTS, INDEX, NAMES
from training.dictionaries import GloVe, WordNet
from training.evaluate import UNTAUGHT
from training.likeness import COMPANY, WEIGHTS, Labeller, Taught, by_hand, fit, taught


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
def labeller(net: WordNet) -> Labeller:
    """A labeller who has the tree alone to go by."""
    return Labeller(net, (Alike(), Alike()), Alike(), OWN)


def test_a_thing_is_of_one_file(labeller: Labeller) -> None:
    """What most of a dog's words are, and no meat, though that is the first sense of its name."""
    assert "doggy" in CONCEPTS[INDEX["dog"]].words
    assert labeller.anchors == {2: [INDEX["dog"]], 4: [INDEX["cat"]], 5: [INDEX["tree"]]}


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


def test_a_model_in_five_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of one zip file are put together in order, once."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("all-mpnet-base-v2/config.json", "{}")
    share = -(-len(whole.getvalue()) // 5)

    def wheel(name: str, version: str) -> zipfile.ZipFile:
        part = int(name[-3:])
        held = zipfile.ZipFile(io.BytesIO(), "w")
        held.writestr("package/__init__.py", "")
        held.writestr(f"package/model.zip.{part:03}", whole.getvalue()[(part - 1) * share : part * share])
        return held

    monkeypatch.setattr(dictionaries, "WORK", tmp_path)
    monkeypatch.setattr(dictionaries, "wheel", wheel)
    assert (dictionaries.mpnet() / "config.json").read_text() == "{}"
    monkeypatch.setattr(dictionaries, "wheel", None)
    assert dictionaries.mpnet().is_dir()


def test_what_keeps_company(net: WordNet, glove: GloVe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word's thing is the one whose words GloVe finds near, where it alone counts."""
    labeller = Labeller(net, (Alike(), Alike()), glove, OWN)
    monkeypatch.setattr("training.likeness.WEIGHTS", [20.0 * (k == COMPANY) for k in range(len(WEIGHTS))])
    purring, barking = labeller.label(["purring", "barking"])
    assert purring.thing == INDEX["cat"]
    assert purring.company > 0.9 > barking.company
    monkeypatch.setattr("training.likeness.WEIGHTS", (0.0,) * len(WEIGHTS))
    assert labeller.label(["purring"])[0].sure < 0.01


def test_what_is_taught(labeller: Labeller) -> None:
    """A thing's words count by the nearest, or vote: several near ones for more than one."""
    cat, dog = INDEX["cat"], INDEX["dog"]
    words = sorted([*OWN, Taught(cat, "moggie", True)])
    labeller = Labeller(labeller.net, (labeller.model, labeller.larger), labeller.glove, words)
    like = np.zeros((1, len(labeller.words)), np.float32)
    for at, word in enumerate(labeller.words):
        like[0, at] = {"moggie": 0.9, "cat": 0.9, "dog": 0.95}.get(word.word, 0)
    assert labeller.nearest(like)[0, [cat, dog]] == pytest.approx([0.9, 0.95])
    assert labeller.voted(like)[0, cat] > labeller.voted(like)[0, dog]


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


def test_what_is_alike_in_the_tree(labeller: Labeller) -> None:
    """A mutt is a kind of dog, and rather a cat than a tree."""
    alike, kind = labeller.tree(3)
    assert kind[INDEX["dog"]] == pytest.approx(0.8)
    assert kind.sum() == kind[INDEX["dog"]]
    assert alike[INDEX["dog"]] > alike[INDEX["cat"]] > alike[INDEX["tree"]] == 0


def test_scores_follow_the_tree_where_words_say_nothing(labeller: Labeller) -> None:
    """All texts being alike here."""
    (label,) = labeller.label(["mutt"])
    assert (label.thing, label.kind) == (INDEX["dog"], True)
    assert labeller.senses("bark") == [(6, pytest.approx(1.0))]
