"""What a device gets unless told otherwise is one table."""

from __future__ import annotations

from dataclasses import fields

import pytest

from onestroke.levers import AUTO, DEFAULTS, Levers, resolved
from onestroke.settings import Settings


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_nothing_is_left_open_but_what_a_device_or_a_request_decides(device: str) -> None:
    found = resolved(AUTO, device)
    assert {field.name for field in fields(found) if getattr(found, field.name) == "auto"} == {
        "attention",
        "decoder",
    }
    assert found.prompt_cache > 0


def test_what_is_asked_for_goes_before_every_default() -> None:
    asked = Levers(
        compile="full", graphs="off", fuse="off", encode_kv="off", channels_last="off", prompt_cache=7
    )
    for device in DEFAULTS:
        assert resolved(asked, device) == asked


def test_the_cpu_is_left_as_it_is_and_cuda_gets_everything_exact() -> None:
    cpu, cuda = resolved(AUTO, "cpu"), resolved(AUTO, "cuda")
    assert (cpu.compile, cpu.graphs, cpu.fuse, cpu.encode_kv) == ("off",) * 4
    assert (cuda.compile, cuda.graphs, cuda.fuse, cuda.encode_kv) == ("regional", "on", "on", "on")
    assert cpu.quantize == cuda.quantize == "off", "what changes pictures is asked for"


def test_every_lever_is_a_setting_and_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTROKE_ATTENTION", "cudnn")
    levers = Settings(compile="full", prompt_cache=3).levers
    assert levers == Levers(compile="full", prompt_cache=3, attention="cudnn")
