"""The parts of a run in their order, and the rows that compare them."""

from __future__ import annotations

import contextlib
import time

import psutil

from benchmarks import crowds, latencies
from benchmarks.options import Options
from benchmarks.results import Report
from benchmarks.session import Session, say

LOUD = 0.03
"""Share of the machine in others' use from which on a run counts as disturbed."""


def measure(options: Options, command: str) -> Report:
    """Everything that `options` ask for. Raises ChildFailed when a process does not do its part.

    All ratios are above 1 where ours is better. `ratio.typists.N` gives every server latest-wins clients;
    `ratio.typists.open_loop.N` sends ours every key, as its own page does, and the peer still gets latest-wins
    clients: each server with the clients that suit it.
    """
    began, others = time.monotonic(), busy_of_others()
    with Session(options, command) as session:
        if any(part in options for part in ("pipeline", "http", "socket", "naive", "litserve")):
            latencies.measure(session)
        if any(part in options for part in ("typists", "naive", "litserve")):
            crowds.measure(session)
        if "roofline" in options:
            _roofline(session)
        _compare(session.report, options)
        seconds = time.monotonic() - began
        disturbed = max(0.0, busy_of_others() - others) / seconds / (psutil.cpu_count() or 1)
        session.report.add("machine.others_share", disturbed, "share")
        session.report.add("machine.run_s", seconds, "s")
    if disturbed > LOUD:
        say(f"others used {100 * disturbed:.0f}% of this machine meanwhile: do not keep these figures")
    return session.report


def busy_of_others() -> float:
    """Processor seconds since the machine's start that went neither to this process nor to its descendants.

    Descendants that have ended count with the parent that waited for them, so ask while the servers still run.
    """
    times = psutil.cpu_times()
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - counted_twice
    own = 0.0
    for process in (me := psutil.Process(), *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            own += used.user + used.system + used.children_user + used.children_system
    return float(busy) - own


def _roofline(session: Session) -> None:
    """Measured rates, GFLOP and roofline time of one picture, and the share of it that ours reaches."""
    if session.child("ours").device != "cpu":
        say("no roofline: the rates of a processor say nothing about another device")
        return
    say("roofline")
    report, batches = session.report, session.options.batches
    found = session.child("ours").ask(
        "roofline", batches=sorted({batches[0], batches[-1]}), stream=session.streams()
    )
    rates = found["rates"]
    for name in ("gemm", "conv"):
        report.add(f"roofline.cpu.{name}_gflops", rates[name] / 1e9, "GFLOP/s")
    for name in ("copy_cache", "copy_memory"):
        report.add(f"roofline.cpu.{name}_gbs", rates[name] / 1e9, "GB/s")
    for n, stages in found["work"].items():
        whole = 0.0
        for stage, work in stages.items():
            report.add(f"roofline.cpu.b{n}.{stage}.gflop", work["flop"] / 1e9 / int(n), "GFLOP")
            report.add(f"roofline.cpu.b{n}.{stage}.ms", 1000 * work["seconds"] / int(n), "ms")
            whole += work["seconds"]
        report.add(f"roofline.cpu.b{n}.ms", 1000 * whole / int(n), "ms")
        if reached := report.get(f"pipeline.b{n}.p50_ms"):
            report.add(f"roofline.cpu.b{n}.reached_percent", 100 * 1000 * whole / reached, "%")


def _compare(report: Report, options: Options) -> None:
    b, n = options.batches[-1], options.typists[-1]
    report.ratio("ratio.pipeline.b1.p50", "peer.diffusers_eager.b1.p50_ms", "pipeline.b1.p50_ms")
    rate = f"b{b}.images_per_s"
    report.ratio(f"ratio.pipeline.{rate}", f"pipeline.{rate}", f"peer.diffusers_eager.{rate}")
    report.ratio("ratio.http.b1.p50", "naive.http.b1.p50_ms", "http.b1.p50_ms")
    for peer, name in (("naive", "ratio"), ("litserve", "ratio.litserve")):
        theirs = f"{peer}.typists.{n}"
        for crowd in (f"typists.{n}", f"typists.open_loop.{n}"):
            report.ratio(f"{name}.{crowd}.images_per_s", f"{crowd}.images_per_s", f"{theirs}.images_per_s")
            report.ratio(
                f"{name}.{crowd}.prompt_age_p95", f"{theirs}.prompt_age_p95_ms", f"{crowd}.prompt_age_p95_ms"
            )
