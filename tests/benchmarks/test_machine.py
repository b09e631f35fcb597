"""What is said about weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine


@pytest.mark.parametrize("large", [4, 1000])
def test_weights_are_told_apart_by_size_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr(machine, "LARGE", large)
    path = tmp_path / "deep" / "a.safetensors"
    path.parent.mkdir()
    digests = []
    for content in (b"12345678", b"x2345678", b"1234567x", b"123456789"):
        path.write_bytes(content)
        digests.append(machine.weights_digest(tmp_path))
        assert machine.weights_digest(path) == digests[-1]
    assert len({*digests}) == len(digests)
