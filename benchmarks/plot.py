"""One figure of a report: latency by batch, pictures per second and prompt age by number of typists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.results import Report

OURS, THEIRS = "#d9480f", "#868e96"
CROWDS = {
    "typists.open_loop": ("Onestroke, every key sent", OURS),
    "typists": ("Onestroke, one in flight", "#ffa94d"),
    "litserve.typists": ("LitServe, one in flight", "#5c7cfa"),
    "naive.typists": ("FastAPI + diffusers, one in flight", THEIRS),
}
"""What a crowd's rows begin with, the name that a reader sees, and a colour."""
_WIDTH = 0.2


def draw(report: Report, path: Path) -> None:
    """Write the PNG. Panels without rows stay away; without any, no file is written."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    batches = _numbers(report, "pipeline.b", ".p50_ms")
    typists = _numbers(report, "typists.", ".images_per_s")
    panels = [_latency] * (len(batches) > 1) + [_rate, _age] * bool(typists)
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        panel(axis, report, batches if panel is _latency else typists)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(
        f"{report.device}, {report.threads} threads, {report.model.split(',')[0]} model, 512x512, one step, "
        "every prompt new",
        fontsize=9,
    )
    if typists:
        handles, labels = axes[0][-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.06 if typists else 0, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _numbers(report: Report, before: str, after: str) -> list[int]:
    names = [row.name for row in report.rows if row.name.startswith(before) and row.name.endswith(after)]
    middles = [name[len(before) : len(name) - len(after)] for name in names]
    return sorted(int(middle) for middle in middles if middle.isdigit())


def _latency(axis: Any, report: Report, batches: list[int]) -> None:
    for name, label, colour in (
        ("pipeline", "Onestroke", OURS),
        ("peer.diffusers_eager", "diffusers", THEIRS),
    ):
        points = [(n, value) for n in batches if (value := report.get(f"{name}.b{n}.p50_ms"))]
        axis.plot(*zip(*points, strict=True), "o-", label=label, color=colour)
        for n, value in points:
            axis.annotate(
                f"{value:.0f}", (n, value), (0, 5), textcoords="offset points", ha="center", fontsize=8
            )
    axis.set_title("Pipeline alone: ms for a batch\n(prompt text to JPEG bytes)", fontsize=9)
    axis.set_xticks(batches)
    axis.set_xlabel("pictures in the batch")
    axis.set_ylim(0)
    axis.legend(frameon=False, fontsize=8)


def _rate(axis: Any, report: Report, typists: list[int]) -> None:
    _bars(axis, report, typists, "images_per_s", "{:.1f}")
    axis.set_title("Pictures per second\n(all typists together, more is better)", fontsize=9)


def _age(axis: Any, report: Report, typists: list[int]) -> None:
    _bars(axis, report, typists, "prompt_age_p95_ms", "{:.0f}")
    axis.set_yscale("log")
    axis.set_title("Age of the shown prompt, p95, ms\n(key to picture, less is better)", fontsize=9)


def _bars(axis: Any, report: Report, typists: list[int], row: str, text: str) -> None:
    there = [crowd for crowd in CROWDS if report.get(f"{crowd}.{typists[0]}.{row}") is not None]
    for i, crowd in enumerate(there):
        label, colour = CROWDS[crowd]
        values = [report.get(f"{crowd}.{n}.{row}") or 0.0 for n in typists]
        places = [place + (i - (len(there) - 1) / 2) * _WIDTH for place in range(len(typists))]
        axis.bar(places, values, _WIDTH * 0.92, label=label, color=colour)
        for place, value in zip(places, values, strict=True):
            axis.annotate(
                text.format(value),
                (place, value),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=6,
            )
    axis.margins(y=0.15)
    axis.set_xticks(range(len(typists)), [str(n) for n in typists])
    axis.set_xlabel("people typing, each 8 keys/s")
