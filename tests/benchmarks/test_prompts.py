"""Prompts that nobody has seen before."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.prompts import Prompts


def test_no_stream_repeats_a_prompt_and_no_two_streams_share_one() -> None:
    prompts = [prompt for stream in range(20) for prompt in Prompts(7, stream).take(500)]
    assert len(set(prompts)) == len(prompts)


def test_no_key_of_any_typist_gives_a_prompt_that_another_key_gave() -> None:
    prompts = [prompt for stream in range(10) for prompt in itertools.islice(Prompts(7, stream).keys(), 1000)]
    assert len(set(prompts)) == len(prompts)


def test_the_same_seed_gives_the_same_prompts() -> None:
    assert Prompts(3, 1).take(5) == Prompts(3, 1).take(5) != Prompts(4, 1).take(5)


def test_every_key_adds_one_character() -> None:
    line = Prompts(1, 1).line()
    keys = list(line.keys())
    assert [len(key) - len(line.opening) for key in keys] == list(range(1, len(line.text) + 1))
    assert keys[-1] == line.opening + line.text


def test_prompts_are_short_enough_to_type_and_long_enough_to_mean_something() -> None:
    for prompt in Prompts(1, 2).take(200):
        assert 25 <= len(prompt) <= 100
        assert prompt.isprintable()


def test_a_stream_without_names_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="stream must be"):
        Prompts(1, 10_000)
