"""The parts of a run in their order."""

from __future__ import annotations

import contextlib
import time

import psutil

from benchmarks import crowds, latencies, mixed, published, systems
from benchmarks.compare import add_ratios
from benchmarks.options import Options
from benchmarks.results import Report
from benchmarks.session import Session, say

LOUD = 0.03
"""Share of the machine in others' use from which on a run counts as disturbed."""


SINGLE = ("pipeline", "compiled", "streamdiffusion", "http", "socket", "naive", "litserve", "ray")
CROWDS = ("typists", "naive", "litserve", "ray")


def measure(options: Options, command: str) -> Report:
    """Everything that `options` ask for. Raises ChildFailed when a process does not do its part."""
    began, others = time.monotonic(), busy_of_others()
    with Session(options, command) as session:
        options = session.options
        for run, parts in (
            (latencies.measure, SINGLE),
            (crowds.measure, CROWDS),
            (mixed.measure, ("mixed",)),
            (systems.measure, ("systems",)),
            (_roofline, ("roofline",)),
        ):
            if any(part in options for part in parts):
                run(session)
        add_ratios(session.report)
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
    say("roofline")
    options, report = session.options, session.report
    target = "ours" if session.child("ours").device == "cpu" else "diffusers_eager"
    for decoder in options.decoders:
        child = session.child(target, decoder)
        found = child.ask("roofline", batches=options.ends, stream=session.streams())
        if decoder == options.decoders[0]:
            add_rates(report, found["rates"])
        for n, stages in found["work"].items():
            add_work(report, f"roofline{decoder.word}.b{n}", f"pipeline{decoder.word}.b{n}", int(n), stages)
        # The published figure is of the model's own, full decoder.
        if child.sdxl_turbo and decoder.name != "tiny":
            one = found["work"][str(options.ends[0])].values()
            here, a100 = (sum(stage[name] for stage in one) for name in ("seconds", "a100_seconds"))
            published.add(report, here, a100)


def add_rates(report: Report, rates: dict[str, float]) -> None:
    for name in ("gemm", "conv"):
        report.add(f"roofline.rate.{name}_gflops", rates[name] / 1e9, "GFLOP/s")
    for name in ("copy_cache", "copy_memory"):
        if rates[name]:
            report.add(f"roofline.rate.{name}_gbs", rates[name] / 1e9, "GB/s")


def add_work(report: Report, name: str, pipeline: str, n: int, stages: dict[str, dict[str, float]]) -> None:
    for stage, work in stages.items():
        report.add(f"{name}.{stage}.gflop", work["flop"] / 1e9 / n, "GFLOP")
        report.add(f"{name}.{stage}.ms", 1000 * work["seconds"] / n, "ms")
    whole = sum(work["seconds"] for work in stages.values())
    report.add(f"{name}_ms", 1000 * whole / n, "ms")
    if reached := report.get(f"{pipeline}.p50_ms"):
        report.add(f"{name}.reached_percent", 100 * 1000 * whole / reached, "%")
