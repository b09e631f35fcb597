"""Flags of `python -m benchmarks`, and blocks that take turns."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import options_of, parser
from benchmarks.latencies import Block, take_turns
from benchmarks.options import ON_DEMAND, PARTS, QUICK_PARTS, SLOW_ON_CPU, Decoder, Options, decoders_of


def test_everything_that_suits_the_device_is_measured_unless_told() -> None:
    options = options_of(parser().parse_args([]))
    assert set(PARTS) - set(options.on("cuda").parts or ()) == set(ON_DEMAND)
    assert set(PARTS) - set(options.on("cpu").parts or ()) == {*ON_DEMAND, *SLOW_ON_CPU}
    asked = options_of(parser().parse_args(["--parts", "compiled"]))
    assert asked.on("cpu").parts == ("compiled",)


def test_decoders_are_the_models_own_or_named() -> None:
    assert [decoder.word for decoder in decoders_of("own")] == [""]
    assert decoders_of("full=auto,tiny") == (Decoder("full", "auto"), Decoder("tiny", "tiny"))
    assert options_of(parser().parse_args(["--decoders", "full,tiny"])).main.word == ".tiny"
    with pytest.raises(ValueError, match="no decoder half: give own, or some of full, tiny"):
        decoders_of("half")


def test_random_weights_are_for_parts_without_servers() -> None:
    asked = ["--model", "random:sdxl-turbo", "--parts"]
    assert options_of(parser().parse_args([*asked, "pipeline,roofline"])).model.model == "random:sdxl-turbo"
    with pytest.raises(ValueError, match="in memory only: give --parts of pipeline"):
        options_of(parser().parse_args([*asked, "pipeline,http"]))


def test_levers_are_passed_to_our_server() -> None:
    options = options_of(parser().parse_args(["--lever", "graphs=off", "--lever", "prompt-cache=8"]))
    flags = options.model.flags
    assert flags[-4:] == ["--graphs", "off", "--prompt-cache", "8"]
    assert flags[flags.index("--max-batch") + 1] == "8"
    with pytest.raises(ValueError, match="no lever warp: give NAME=VALUE, NAME one of compile"):
        options_of(parser().parse_args(["--lever", "warp=9"]))


def test_slow_things_are_measured_at_one_and_eight() -> None:
    assert Options(batches=(1, 2, 4, 8, 16)).ends == (1, 8)
    assert Options(batches=(1, 2, 4)).ends == (1, 4)
    assert Options(batches=(2,)).ends == (2,)


def test_an_unknown_part_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="no part warp: give some of pipeline"):
        options_of(parser().parse_args(["--parts", "http,warp"]))


def test_quick_is_shorter_and_a_flag_beside_it_wins() -> None:
    options = options_of(parser().parse_args(["--quick", "--seconds", "9"]))
    assert options.seconds == 9
    assert options.repeats == 1
    assert options.batches == (1, 8)
    assert options.parts == QUICK_PARTS
    assert options_of(parser().parse_args(["--quick", "--parts", "mixed"])).parts == ("mixed",)


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
