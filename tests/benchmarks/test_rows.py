"""Which rows a run gives: the names that readers, plots and ratios rely on, over processes that only pretend."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from benchmarks import crowds, latencies, latency, suite, systems
from benchmarks.compare import add_ratios
from benchmarks.options import Options, decoders_of
from benchmarks.peers import LITSERVE, RAY
from benchmarks.prompts import Prompts
from benchmarks.results import Report
from benchmarks.serving import NAIVE
from benchmarks.statistics import TypistFigures

WORK = {stage: {"flop": 1e9, "seconds": 0.001, "a100_seconds": 0.002} for stage in ("text", "unet", "decode")}


class Child:
    """Answers every command as a target would, 10 ms for everything."""

    def __init__(self, device: str) -> None:
        self.device, self.sdxl_turbo = device, True

    def ask(self, what: str, calls: int = 1, **asked: Any) -> Any:
        if what == "roofline":
            rates = dict.fromkeys(("gemm", "conv", "copy_cache", "copy_memory"), 1e9)
            return {"rates": rates, "work": {str(n): WORK for n in asked["batches"]}}
        times = [0.01] * calls
        if what == "stages":
            return {"seconds": dict.fromkeys(("text", "unet", "decode", "encode"), times)}
        return {"seconds": times}


class Session:
    """Starts nothing."""

    def __init__(self, options: Options, device: str) -> None:
        self.options, self.report = options, Report("card", "2", "abc", 1, "m", "c")
        self.peers = [NAIVE, LITSERVE, RAY]
        self._child = Child(device)
        self.children: set[tuple[str, str, str]] = set()

    def child(self, target: str, decoder: Any = None, model: str = "") -> Child:
        self.children.add((target, (decoder or self.options.main).name, model))
        return self._child

    def server(self, server: Any, decoder: Any = None) -> Any:
        return type("Running", (), {"server": server, "url": ""})

    def streams(self, n: int = 1) -> int:
        return 0

    def prompts(self) -> Prompts:
        return Prompts(0, 0)


def names(monkeypatch: pytest.MonkeyPatch, decoders: str, device: str, **asked: Any) -> set[str]:
    for wire in ("http_get", "http_post", "stream"):
        monkeypatch.setattr(latency, wire, lambda _, __, calls: [0.012] * calls)
    figures = TypistFigures(20.0, 0.05, 0.1, 0.05, 0.1, 1.0, 0.5)
    monkeypatch.setattr(crowds, "window", lambda *_: figures)
    options = Options(decoders=decoders_of(decoders), rounds=1, block_seconds=0.01, **asked)
    session: Any = Session(options, device)
    for run in (latencies.measure, crowds.measure, systems.measure, suite._roofline):
        run(session)
    add_ratios(session.report)
    return {row.name for row in session.report.rows}


def spread(*choices: str) -> set[str]:
    """All combinations of what stands between "|"."""
    return {"".join(words) for words in itertools.product(*(choice.split("|") for choice in choices))}


def test_a_card_with_two_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    found = names(monkeypatch, "full,tiny", "cuda", batches=(1, 2, 4, 8, 16))
    wanted = (
        spread("pipeline.", "full|tiny", ".b", "1|2|4|8|16", ".p50_ms")
        | spread("pipeline.", "full|tiny", ".images_per_s")
        | spread("stage.", "text|unet|decode_full|decode_tiny|encode", ".b", "1|8", ".p50_ms")
        | spread("http|socket", ".", "full|tiny", ".b1.p50_ms")
        | spread("peer.", "diffusers_eager|diffusers_compiled", "|.full", ".b", "1|8", ".p50_ms")
        | spread("|naive.|litserve.|ray.", "typists.", "1|4|16|64", ".", "images_per_s|prompt_age_p95_ms")
        | spread("roofline.", "full|tiny", ".b1_ms")
        | spread("systems.", "turbo_1|turbo_4|sdxl_50|sd15_50", ".ms")
        | spread("ratio", "|.compiled", ".pipeline.", "full|tiny", ".b", "1.p50|8.images_per_s")
        | {"published.sdxl_turbo_a100.b1_ms", "estimate.sdxl_turbo.b1_ms", "cache_hit.http.tiny.b1.p50_ms"}
    )
    assert wanted - found == set()


def test_a_cpu_with_the_models_own_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    found = names(monkeypatch, "own", "cpu", parts=("pipeline", "http", "socket", "typists", "naive"))
    wanted = (
        spread("pipeline|http|socket|peer.diffusers_eager", ".b1.p50_ms")
        | spread("pipeline.b", "2|4|8", ".images_per_s")
        | spread("|naive.", "typists.", "1|4|16|64", ".", "images_per_s|prompt_age_p95_ms")
        | spread("stage.", "text|unet|decode|encode", ".b", "1|8", ".p50_ms")
        | spread("overhead.", "http|socket", ".p50_ms")
        | {"roofline.b1_ms", "roofline.b8.reached_percent", "pipeline.images_per_s", "ratio.http.b1.p50"}
    )
    assert wanted - found == set()
    assert not any("full" in name or "tiny" in name for name in found)


def test_stream_diffusion_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = names(monkeypatch, "tiny", "cuda", batches=(1, 8), parts=("pipeline", "streamdiffusion"))
    assert spread("peer.streamdiffusion.b", "1|8", ".p50_ms") <= found
    assert "ratio.streamdiffusion.pipeline.tiny.b8.images_per_s" in found
