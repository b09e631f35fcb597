"""How the text encoder learns: its losses, and the captions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from training import codes, listening
from training.grammar import parse

PROMPTS = ["a cat and a blue dog", "three apples on pink", "cat, pixel art", "nothing known"]


def test_exact_codes_cost_nothing() -> None:
    """Losses are near zero for what is right, and not for what is not."""
    targets = [parse(prompt) for prompt in PROMPTS]
    pooled, slots = codes.encode(targets), codes.slots(targets)
    assert listening.code_loss(pooled, targets) < 0.1
    assert listening.slot_loss(slots, targets) < 0.3
    assert listening.code_loss(pooled.flip(0), targets) > 1
    assert listening.slot_loss(slots.flip(0), targets) > 1


def test_captions_are_the_same_written_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another worker, for a card, or on the spot, heap by heap."""
    monkeypatch.setattr(listening, "ProcessPoolExecutor", lambda count, _: ThreadPoolExecutor(count))
    here, there = listening.Writers(6, seed=5, ahead=0), listening.Writers(6, seed=5, ahead=1)
    heaps = [here.heap(number, 0.5) for number in (0, 1)]
    assert [there.heap(number, 0.5) for number in (0, 1)] == heaps
    assert heaps[0] != heaps[1]
    assert len(heaps[0][0]) == 6
    there.close()


def test_what_is_missed_comes_often() -> None:
    """Captions name it, where without they hardly would."""
    captions = listening.Writers(200, seed=5, ahead=0).heap(0, 0.0, ["poodle"])[0]
    assert sum("poodle" in caption for caption in captions) > 20
    assert captions != listening.Writers(200, seed=5, ahead=0).heap(0, 0.0)[0]
