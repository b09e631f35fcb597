"""Words that nobody wrote down."""

from __future__ import annotations

import pytest

from training.concepts import COLOUR_WORDS, INDEX, NAMES
from training.evaluate import UNTAUGHT
from training.grammar import RELATIONS, parse
from training.lexicon import associated, comes_to_mind, said_already, source_of
from training.likeness import Label
from training.phrases import BY_HAND, DISTILLED, FUNCTION, KINDS, KINDS_PLURALS, LEXICON, STYLED, plurals

ROWS = [line.split("\t") for line in DISTILLED.read_text().splitlines()]


def test_the_file_adds_to_the_lists() -> None:
    """Every row names a thing, and no word that means something already."""
    assert {name for _, name, _ in ROWS} <= set(NAMES)
    assert {source for _, _, source in ROWS} == {"tree", "near"}
    words = [word for word, _, _ in ROWS]
    assert words == sorted(set(words))
    assert not set(words) & {*LEXICON, *FUNCTION, *RELATIONS, *COLOUR_WORDS, *STYLED}
    assert DISTILLED.stat().st_size < 700_000  # 27,000 words


def test_what_comes_to_mind() -> None:
    """A thing has to be likely."""

    class Known:
        def label(self, words: list[str]) -> list[Label]:
            return [Label(3, 0.9 if word == "purring" else 0.1, False, 0.7) for word in words]

    assert associated(["purring", "barking"], Known()) == {"purring": 3}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "sure", "company", "kept"),
    [
        ("purring", 0.4, 0.7, True),
        ("purring", 0.4, 0.5, False),
        ("purring", 0.8, 0.0, True),
        ("purring fits", 0.8, 0.7, True),
        ("purring fits", 0.4, 0.7, False),
        ("purring fits", 0.8, 0.5, False),
    ],
)
def test_how_sure_it_has_to_be(word: str, sure: float, company: float, kept: bool) -> None:
    """Two words say much by themselves."""
    assert comes_to_mind(word, Label(0, sure, False, company)) == kept


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
