from __future__ import annotations

from pathlib import Path

import pytest

from onestroke.workers import devices
from onestroke.workers.devices import spell_out, threads_each


@pytest.mark.parametrize(
    ("cards", "visible", "expected"),
    [
        (0, None, ("auto",)),
        (1, None, ("auto",)),
        (3, None, ("cuda:0", "cuda:1", "cuda:2")),
        (3, "2,0", ("cuda:0", "cuda:1")),
        (3, "", ("auto",)),
        (3, "1,2,-1,0", ("cuda:0", "cuda:1")),
    ],
)
def test_auto_is_every_card_that_may_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cards: int,
    visible: str | None,
    expected: tuple[str, ...],
) -> None:
    for i in range(cards):
        (tmp_path / f"0000:{i}0:00.0").mkdir()
    monkeypatch.setattr(devices, "CARDS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert spell_out("auto") == expected


def test_named_devices_are_taken_as_they_are() -> None:
    assert spell_out("cpu") == ("cpu",)
    assert spell_out("cuda:1,cuda:0") == ("cuda:1", "cuda:0")


def test_workers_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert threads_each(0, 1) == 0
    assert threads_each(0, 3) == 2
    assert threads_each(0, 20) == 1
    assert threads_each(5, 3) == 5
