"""Rows that compare other rows: they are made of a finished report, also of one that was merged.

All ratios are above 1 where ours is better. `ratio.typists.N` gives every server latest-wins clients;
`ratio.typists.open_loop.N` sends ours every key, as its own page does, and the peer still gets latest-wins clients:
each server with the clients that suit it.
"""

from __future__ import annotations

from benchmarks.results import Report

CALLS = {
    "diffusers_eager": "ratio",
    "diffusers_compiled": "ratio.compiled",
    "streamdiffusion": "ratio.streamdiffusion",
}
SERVERS = {"naive": "ratio", "litserve": "ratio.litserve", "ray": "ratio.ray"}
"""What the ratios to a peer begin with."""
A_CROWD = 16
"""From this many typists on, or for the most there are, servers are compared."""


def numbers(report: Report, before: str, after: str) -> list[int]:
    """The n of all rows named `before` n `after`, rising."""
    names = [row.name for row in report.rows if row.name.startswith(before) and row.name.endswith(after)]
    middles = [name[len(before) : len(name) - len(after)] for name in names]
    return sorted(int(middle) for middle in middles if middle.isdigit())


def words(report: Report) -> list[str]:
    """The decoders measured, as they stand in names ("", ".full", ".tiny"); the main one last (see `options`)."""
    return [word for word in ("", ".full", ".tiny") if f"pipeline{word}.b1.p50_ms" in report]


def add_ratios(report: Report) -> None:
    """Every ratio whose rows are there."""
    decoders = words(report)
    for word in decoders:
        theirs = "" if word == decoders[-1] else word
        for peer, ratio in CALLS.items():
            _pipelines(report, f"{ratio}.pipeline{word}", f"pipeline{word}", f"peer.{peer}{theirs}")
    main = decoders[-1] if decoders else ""
    for peer, ratio in SERVERS.items():
        report.ratio(f"{ratio}.http{main}.b1.p50", f"{peer}.http.b1.p50_ms", f"http{main}.b1.p50_ms")
    crowds = numbers(report, "typists.", ".images_per_s")
    for n in [n for n in crowds if n >= A_CROWD] or crowds[-1:]:
        for peer, ratio in SERVERS.items():
            _typists(report, ratio, f"{peer}.typists.{n}", n)
    report.ratio("ratio.estimate.sdxl_turbo.b1", "estimate.sdxl_turbo.b1_ms", "pipeline.full.b1.p50_ms")


def _pipelines(report: Report, ratio: str, ours: str, theirs: str) -> None:
    report.ratio(f"{ratio}.b1.p50", f"{theirs}.b1.p50_ms", f"{ours}.b1.p50_ms")
    for n in numbers(report, f"{theirs}.b", ".images_per_s"):
        rate = f"b{n}.images_per_s"
        report.ratio(f"{ratio}.{rate}", f"{ours}.{rate}", f"{theirs}.{rate}")


def _typists(report: Report, ratio: str, theirs: str, n: int) -> None:
    for crowd in (f"typists.{n}", f"typists.open_loop.{n}"):
        report.ratio(f"{ratio}.{crowd}.images_per_s", f"{crowd}.images_per_s", f"{theirs}.images_per_s")
        report.ratio(
            f"{ratio}.{crowd}.prompt_age_p95", f"{theirs}.prompt_age_p95_ms", f"{crowd}.prompt_age_p95_ms"
        )
