"""Slips are put right, and nothing else is touched, however far a prompt is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from onestroke.errors import ModelError
from onestroke.models.catalog import EMBEDDED_FOLDER
from onestroke.pipelines.spelling import FILE, MOST, Spelling, read_spelling, slips, sound

KNOWN = (
    *("a", "on", "red", "owl", "elephant", "bicycle", "dolphin", "guitar", "butterfly", "butterflies"),
    *("background", "bacon", "balloon", "shark"),
)
OTHERS = ["shrek", "philosophy", "banna"]


@pytest.fixture
def spelling() -> Spelling:
    return Spelling(KNOWN, OTHERS)


@pytest.mark.parametrize(
    ("prompt", "right"),
    [
        ("elphant ", "elephant "),
        ("a red elehpant on a bakground.", "a red elephant on a background."),
        ("Bycicle, dolfin", "bicycle, dolphin"),
        ("butterflys ", "butterflies "),  # what sounds like it, before what is likelier
        ("balon ", "balloon "),
        ("gitarr ", "guitar "),  # a slip in how it sounds
        ("owel ", "owl "),
        ("ELPHANT and Red", "elephant and Red"),
    ],
)
def test_slips_are_put_right(spelling: Spelling, prompt: str, right: str) -> None:
    assert spelling.correct(prompt) == right


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Red  elephant!",
        "shrek on banna ",
        "a 3d shap",
        "owls",
        "éléphan 猫 ",
        "elephant's x2",
        "zzzzzzzz " * 3,
    ],
)
def test_what_is_written_so_or_like_nothing_stays(spelling: Spelling, prompt: str) -> None:
    assert spelling.correct(prompt) == prompt


def test_a_word_is_left_alone_as_long_as_it_may_be_on_its_way(spelling: Spelling) -> None:
    for word in (*KNOWN, *OTHERS):
        for end in range(len(word) + 1):
            assert spelling.correct(f"red {word[:end]}") == f"red {word[:end]}"


def test_a_beginning_with_a_slip_in_it_becomes_the_beginning_without(spelling: Spelling) -> None:
    typed = [spelling.correct("elphant"[:end]) for end in range(1, 8)]
    assert typed == ["e", "el", "elp", "elph", "elepha", "elephan", "elephant"]


def test_slips_keep_the_first_letter_and_never_are_the_word() -> None:
    near = list(slips("tiger"))
    assert {"tger", "tigger", "toger", "tigre", "tigerx"} <= set(near)
    assert all(slip[0] == "t" and slip != "tiger" for slip in near)


def test_words_sound_alike() -> None:
    for one, other in (("bycicle", "bicycle"), ("dolfin", "dolphin"), ("rabit", "rabbit"), ("kwik", "quick")):
        assert sound(one) == sound(other)
    assert sound("cat") != sound("cut")


def test_of_a_long_prompt_some_words_are_looked_at(
    spelling: Spelling, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def word(text: str, unfinished: bool = False) -> str:
        looked_up.append(text)
        return text

    monkeypatch.setattr(spelling, "word", word)
    spelling.correct("gitarr " * 10 * MOST)
    assert len(looked_up) == MOST


def test_a_folder_says_it_or_not(tmp_path: Path) -> None:
    assert read_spelling(tmp_path) is None
    path = tmp_path / FILE
    path.parent.mkdir()
    path.write_text('{"known": ["cat"], "others": []}')
    found = read_spelling(tmp_path)
    assert found
    assert found.correct("catt ") == "cat "
    path.write_text("[")
    with pytest.raises(ModelError, match=r"spelling\.json cannot be read"):
        read_spelling(tmp_path)


def test_the_embedded_model_knows_its_words() -> None:
    spelling = read_spelling(EMBEDDED_FOLDER)
    assert spelling
    assert spelling.correct("a purpel elphant and two butterflys on a yelow bakground") == (
        "a purple elephant and two butterflies on a yellow background"
    )
    assert spelling.correct("shrek, pikachu and frodo in tokyo") == "shrek, pikachu and frodo in tokyo"
