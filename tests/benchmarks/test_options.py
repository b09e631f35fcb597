"""Flags of `python -m benchmarks`, and blocks that take turns."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import options_of, parser
from benchmarks.latencies import Block, take_turns
from benchmarks.options import PARTS


def test_everything_is_measured_unless_told() -> None:
    assert options_of(parser().parse_args([])).parts == PARTS


def test_an_unknown_part_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="no part warp: give some of pipeline"):
        options_of(parser().parse_args(["--parts", "http,warp"]))


def test_quick_is_shorter_and_a_flag_beside_it_wins() -> None:
    options = options_of(parser().parse_args(["--quick", "--seconds", "9"]))
    assert options.seconds == 9
    assert options.repeats == 1
    assert options.batches == (1, 8)


def test_help_names_every_part() -> None:
    assert all(part in parser().format_help() for part in PARTS)


def test_blocks_of_a_batch_size_take_turns() -> None:
    said: list[str] = []

    def block(name: str, n: int) -> Block:
        def run(calls: int) -> list[float]:
            said.append(name)
            return [0.1] * calls

        return Block(name, n, run)

    found = take_turns([block("a", 1), block("big", 8), block("b", 1)], rounds=2, seconds=1.0)
    assert said == ["a", "b", "a", "b", "a", "b", "big", "big", "big"]
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 20, "b": 20, "big": 20}
