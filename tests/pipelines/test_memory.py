"""A model that does not fit is refused before it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onestroke.errors import ModelError
from onestroke.models.specs import ModelSpec
from onestroke.pipelines import memory
from onestroke.pipelines.loading import load


def test_too_little_memory_says_how_much_and_what_to_do(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(ModelError, match=r"tiny needs .* GB of memory in float32 .*bfloat16.* are free"):
        load(spec, device="cpu", dtype="float32")


def test_what_fits_is_let_in_and_the_unknown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for free in (3000, None):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        memory.check_memory("x", 1000, torch.float16)
    monkeypatch.setattr(memory, "available_bytes", lambda: 2999)
    with pytest.raises(ModelError):
        memory.check_memory("x", 1000, torch.float16)


def test_a_containers_limit_counts_and_its_page_cache_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(used)),))
    free = memory.available_bytes()
    limit.write_text("5000\n")
    used.write_text("3000\n")
    assert memory.available_bytes() == 2000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 700\nactive_file 300\n")
    assert memory.available_bytes() == 3000
    limit.write_text("max\n")
    assert (memory.available_bytes() is None) == (free is None)


def test_a_card_that_is_too_small_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, card = torch.nn.Linear(100, 100, bias=False), torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40_000, 80_000))
    memory.check_device_memory("x", [weights], card)
    memory.check_device_memory("x", [weights, weights], torch.device("cpu"))
    with pytest.raises(ModelError, match=r"x needs .* GB on cuda:1"):
        memory.check_device_memory("x", [weights, weights], card)
