"""StreamDiffusion as a peer: which models it takes, and what is said where it is not there."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("torch")

from benchmarks.options import ModelOptions
from benchmarks.peers.stream_diffusion import StreamDiffusionCall
from onestroke.errors import ModelError


@pytest.mark.parametrize("model", ["embedded", "random:sd15"])
def test_a_network_that_is_not_sd_turbos_is_refused_by_name(model: str) -> None:
    with pytest.raises(
        ModelError, match=f"with SD-Turbo's network, not with {model.removeprefix('random:')}'s"
    ):
        StreamDiffusionCall(ModelOptions(model))


def test_without_it_the_way_to_have_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamdiffusion", None)
    with pytest.raises(ModelError, match=r"pip install --no-deps streamdiffusion==0\.1\.1"):
        StreamDiffusionCall(ModelOptions("random:sd-turbo"))
