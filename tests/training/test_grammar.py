"""What prompts mean."""

from __future__ import annotations

from itertools import pairwise

import pytest

from training import codes
from training.captions import Captions
from training.concepts import COLOUR_NAMES, COLOURS, CONCEPTS, INDEX, NAMES
from training.grammar import parse
from training.keywords import KEYWORDS


def meaning(prompt: str) -> str:
    """The target in words."""
    return str(parse(prompt))


def test_the_table_is_what_the_card_says() -> None:
    """1,076 concepts with distinct words; twelve colours and white."""
    words = [word for concept in CONCEPTS for word in concept.words]
    assert len(CONCEPTS) == 1076
    assert len(words) == len(set(words))
    assert len(COLOURS) == 13
    assert "white" in COLOURS


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("", "nothing on white"),
        ("cat", "cat on white"),
        ("CAT!!", "cat on white"),
        ("a picture of a cute bunny", "rabbit on white"),
        ("evil robot on black", "robot on black"),
        ("red apple on a blue background", "apple on blue"),
        ("blue apple", "blue apple on white"),
        ("black cat on orange", "black cat on orange"),
        ("orange", "orange on white"),
        ("orange cat", "cat on white"),
        ("orange dog", "orange dog on white"),
        ("green", "frog on white"),
        ("blue background", "nothing on blue"),
        ("pizza, green background", "pizza on green"),
        ("cat with a blue beard", "cat on white"),
        ("cat with a blue background", "cat on blue"),
        ("happy", "smiling face on white"),
        ("happy dog", "dog on white"),
        ("ice cream", "ice cream on white"),
        ("dark blue car", "navy car on white"),
        ("bike", "bicycle on white"),
        ("automobile", "car on white"),
        ("bannana", "banana on white"),
        ("elehpant", "elephant on white"),
        ("xyzzy", "nothing on white"),
        ("qualms", "nothing on white"),
        ("clown", "clown on white"),
        ("xyzzy on red", "nothing on red"),
    ],
)
def test_finished_prompts(prompt: str, target: str) -> None:
    """Things, synonyms, colours, backgrounds, slips and nonsense."""
    assert meaning(prompt) == target


@pytest.mark.parametrize(
    ("prompt", "target", "places"),
    [
        ("a cat and a dog", "cat, dog on white", (3, 5)),
        ("cat with a pizza", "cat, pizza on white", (3, 5)),
        ("cat & dog", "cat, dog on white", (3, 5)),
        ("cat, dog", "cat, dog on white", (3, 5)),
        ("cat next to a dog", "cat, dog on white", (3, 5)),
        ("cat left of a dog", "cat, dog on white", (3, 5)),
        ("a cat eating a pizza", "cat, pizza on white", (3, 5)),
        ("cat right of a dog", "dog, cat on white", (3, 5)),
        ("a cat to the right of the dog", "dog, cat on white", (3, 5)),
        ("a bird above a house", "bird, house on white", (1, 7)),
        ("astronaut riding a horse", "astronaut, horse on white", (1, 7)),
        ("cat on top of a car", "cat, car on white", (1, 7)),
        ("a cat under a tree", "tree, cat on white", (1, 7)),
        ("cat with a blue hat", "cat, blue hat on white", (3, 5)),
        ("a red cat and a blue dog", "red cat, blue dog on white", (3, 5)),
        ("cat on a blue car", "cat, blue car on white", (1, 7)),
        ("cat and dog on a blue background", "cat, dog on blue", (3, 5)),
        ("a cat and a d", "cat, dog on white", (3, 5)),
        ("a cat, a dog and a bird", "cat, dog, bird on white", (1, 6, 8)),
        ("cat dog and bird", "cat, bird on white", (3, 5)),
        ("two cats and a dog", "cat, cat, dog on white", (1, 6, 8)),
        ("cat, dog, fox, owl and lion", "cat, dog, fox, owl on white", (0, 2, 6, 8)),
        ("two cats", "cat, cat on white", (3, 5)),
        ("2 cats", "cat, cat on white", (3, 5)),
        ("a pair of red cats", "red cat, red cat on white", (3, 5)),
        ("three apples on pink", "apple, apple, apple on pink", (1, 6, 8)),
        ("many wolves", "wolf, wolf, wolf, wolf on white", (0, 2, 6, 8)),
        ("99 balloons", "balloon, balloon, balloon, balloon on white", (0, 2, 6, 8)),
        ("cats", "cat, cat on white", (3, 5)),
        ("an apple and an orange", "apple, orange on white", (3, 5)),
        ("cat with an orange", "cat, orange on white", (3, 5)),
    ],
)
def test_several_things(prompt: str, target: str, places: tuple[int, ...]) -> None:
    """What is joined stands together; what is counted stands there as often."""
    assert meaning(prompt) == target
    assert tuple(placed.place for placed in parse(prompt).group) == places


@pytest.mark.parametrize(
    "prompt",
    [
        *("a cat a", "a cat and", "a cat and a", "a cat wi", "a cat with", "a cat with a", "a cat and th"),
        *("a cat o", "a cat on", "a cat next to", "foo riding a cat", "a cat with big eyes", "kitty-cat"),
        *("the cat's hair", "cat made of cheese", "cat dog"),
    ],
)
def test_what_adds_nothing(prompt: str) -> None:
    """Unfinished joints, unknown things, parts of a thing, a second thing that nothing joins."""
    assert meaning(prompt) == "cat on white"


@pytest.mark.parametrize("prompt", ["glasses", "a pair of glasses", "some bread", "fries", "scissors"])
def test_one_thing_in_the_plural(prompt: str) -> None:
    """Some names are plurals, and some numbers count nothing."""
    assert parse(prompt).concept is not None


def test_key_by_key() -> None:
    """The prompt of every demo, as it is typed: the picture changes three times and never back."""
    full = "red apple on a blue background"
    seen = [meaning(full[:end]) for end in range(1, len(full) + 1)]
    changes = [seen[0], *(now for before, now in pairwise(seen) if now != before)]
    assert changes == ["rocket on white", "apple on white", "apple on blue"]
    assert seen[full.index("on a") + 3] == "apple on white"


@pytest.mark.parametrize("name", NAMES)
def test_a_thing_once_named_stays(name: str) -> None:
    """Its own name draws it, its beginnings draw something, and going on with a background keeps it."""
    assert parse(name).concept == INDEX[name]
    for end in range(1, len(name) + 1):
        assert parse(name[:end]).things, name[:end]
    tail = f"{name} on a pink background"
    for end in range(len(name), len(tail) + 1):
        assert parse(tail[:end]).concept == INDEX[name], tail[:end]


def test_popularity_decides() -> None:
    """One letter draws the first name in the table that begins with it."""
    for letter in "bcdefghklmoprstuw":
        first = next(i for i, name in enumerate(NAMES) if name.startswith(letter))
        assert parse(letter).concept == first


def _first(prompt: str) -> int | None:
    """The first thing drawn; a plural draws two of it."""
    return next((thing.concept for thing in parse(prompt).things), None)


def test_words_draw_their_concept() -> None:
    """Nearly every word in the table draws its own concept; the rest begin with another concept's word."""
    wrong = [w for i, concept in enumerate(CONCEPTS) for w in concept.words if _first(w + " ") != i]
    assert len(wrong) <= 3, wrong


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("pixel art cat", "cat on white, pixel art"),
        ("a cat, pixel art", "cat on white, pixel art"),
        ("cat in pixel art style", "cat on white, pixel art"),
        ("8-bit dragon", "dragon on white, pixel art"),
        ("a cat in the style of pixel art on a red background", "cat on red, pixel art"),
        ("black and white dog on blue", "dog on blue, black and white"),
        ("two cats in black & white", "cat, cat on white, black and white"),
        ("sketch of a house and a tree", "house, tree on white, sketch"),
        ("pencil drawing of a fox", "fox on white, sketch"),
        ("silhouette of a horse", "horse on white, silhouette"),
        ("cat, dog, sepia", "cat, dog on white, sepia"),
        ("sepia", "nothing on white"),
        ("sepia on blue", "nothing on blue"),
        ("a drawing of a cat", "cat on white"),
        ("a pencil and paper", "memo on white"),
    ],
)
def test_styles(prompt: str, target: str) -> None:
    """A style's words say it, and nothing else."""
    assert meaning(prompt) == target


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("cat, pixe", "cat on white, pixel art"),
        ("cat, pixel ar", "cat on white, pixel art"),
        ("ske", "skull on white"),
        ("black and", "spider on white"),
        ("black do", "black dog on white"),
        ("cat black and w", "cat on white, black and white"),
        ("cat, sket", "cat on white, sketch"),
    ],
)
def test_half_a_style(prompt: str, target: str) -> None:
    """No style before it is clear that it is one."""
    assert meaning(prompt) == target


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("green apple", "green apple on white"),
        ("a green car", "green car on white"),
        ("red envelope", "red envelope on white"),
        ("blue red envelope", "blue red envelope on white"),
        ("lime", "lime on white"),
        ("lime background", "nothing on green"),
        ("a lime car", "green car on white"),
        ("light blue car", "blue car on white"),
        ("a confused cat", "cat on white"),
        ("confused", "confused face on white"),
        ("number one", "number 1 on white"),
        ("one dog", "dog on white"),
        ("1 dog", "dog on white"),
        ("polar bear", "polar bear on white"),
        ("baby dragon", "dragon on white"),
        ("watercolor fox", "fox on white"),
        ("crayon", "crayon on white"),
        ("a bowl of ramen with egg", "ramen, egg on white"),
        ("a cat and a bowl of fruit", "cat, apple on white"),
        ("a cat with a bowl of m", "cat, cereal on white"),
        ("bottles of wine", "wine, wine on white"),
        ("some glasses of wine", "wine, wine, wine, wine on white"),
        ("basket of qualms with a cat", "basket, cat on white"),
        ("basket of qualms, a cat", "basket, cat on white"),
        ("a crystal blue dragon", "blue dragon on white"),
        ("crayon drawing of a house", "house on white"),
        ("cat, neon", "cat on white"),
        ("two baskets of kittens", "cat, cat on white"),
        ("a statue of a blue cat", "blue cat on white"),
        ("a bowl of", "ramen on white"),
        ("basket of qualms", "basket on white"),
        ("9 cats", "cat, cat, cat, cat on white"),
        ("baby", "baby on white"),
        ("cheese sandwich", "sandwich on white"),
        ("cat on a rock on blue", "cat, rock on blue"),
        ("a cat by van gogh", "cat on white"),
        ("a picture of a dog", "dog on white"),
        ("foo plus dog", "dog on white"),
    ],
)
def test_a_thousand_things(prompt: str, target: str) -> None:
    """Names that hold a colour, words that also describe, things that only say more of others."""
    assert meaning(prompt) == target
    assert INDEX["black cat"] == codes.decode(codes.encode([parse("black cat")]))[0].concept


def test_captions_repeat() -> None:
    """A seed fixes the stream, and the grammar gives every caption's target."""
    texts, targets = Captions(3).batch(200)
    assert Captions(3).batch(200) == (texts, targets)
    assert targets == [parse(text) for text in texts]
    assert 0.02 < sum(target.concept is None for target in targets) / 200 < 0.4


def test_codes_round_trip() -> None:
    """Targets survive being codes, with noise on them."""
    targets = [
        parse(p) for p in ("blue cat on pink", "apple", "xyzzy", "xyzzy on teal", "pink robot on black")
    ]
    noisy = codes.encode(targets) + 0.1
    assert codes.decode(noisy) == targets
    assert noisy.shape == (5, codes.CODE)


def test_held_out_pairs_are_never_sampled() -> None:
    """What the judge calls held out really is."""
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(3000):
        target = codes.sample(rng)
        if target.concept is not None:
            assert target.background not in codes.HELD_BACKGROUNDS[target.concept]
            assert target.colour is None or target.colour not in codes.HELD_COLOURS[target.concept]
    assert all(len(held) == 2 and COLOUR_NAMES.index("white") not in held for held in codes.HELD_BACKGROUNDS)


def test_a_keyword_counts_where_nothing_is_named() -> None:
    """ "antarctica" draws a penguin, and "a bear in antarctica" a bear."""
    assert parse("antarctica").concept == INDEX["penguin"]
    assert parse("a bear in antarctica").concept == INDEX["bear"]
    assert parse("antar").concept == INDEX["penguin"]


def test_keywords_belong_to_known_things_and_to_one_each() -> None:
    """A name that is misspelt in the table would silently teach nothing."""
    words = [word for words in KEYWORDS.values() for word in words]
    assert set(KEYWORDS) <= set(NAMES)
    assert len(words) == len(set(words))
