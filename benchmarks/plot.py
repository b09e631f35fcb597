"""One figure of a report: latency by batch, stages, pictures per second and prompt age by number of typists."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import numbers, words
from benchmarks.results import Report

OURS, THEIRS = "#d9480f", "#868e96"
CROWDS = {
    "typists.open_loop": ("Onestroke, every key sent", OURS),
    "typists": ("Onestroke, one in flight", "#ffa94d"),
    "litserve.typists": ("LitServe, one in flight", "#5c7cfa"),
    "ray.typists": ("Ray Serve, one in flight", "#20c997"),
    "naive.typists": ("FastAPI + diffusers, one in flight", THEIRS),
}
"""What a crowd's rows begin with, the name that a reader sees, and a colour."""
STAGES = {
    "text": "#ffd8a8",
    "unet": OURS,
    "decode": "#ffa94d",
    "decode_full": "#ffa94d",
    "decode_tiny": "#e8590c",
    "encode": THEIRS,
}


def draw(report: Report, path: Path) -> None:
    """Write the PNG. Panels without rows stay away; without any, no file is written."""
    if picture := _rendered(report, "png"):
        path.write_bytes(picture)


def svg(report: Report) -> str:
    """The same as an <svg> element; empty without panels."""
    text = _rendered(report, "svg").decode()
    return text[text.index("<svg") :] if text else ""


def _rendered(report: Report, form: str) -> bytes:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    batches = numbers(report, f"pipeline{''.join(words(report)[-1:])}.b", ".p50_ms")
    typists = numbers(report, "typists.", ".images_per_s")
    panels = (
        [_latency] * (len(batches) > 1) + [_stages] * bool(_staged(report)) + [_rate, _age] * bool(typists)
    )
    if not panels:
        return b""
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.9 * len(panels), 3.6), squeeze=False)
    for panel, axis in zip(panels, axes[0], strict=True):
        panel(axis, report, batches if panel is _latency else typists)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(
        f"{report.device}, {report.threads} threads, {report.model.split(',')[0]} model, every prompt new",
        fontsize=9,
    )
    if typists:
        handles, labels = axes[0][-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.06 if typists else 0, 1, 1))
    picture = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(picture, format=form, dpi=110)
    pyplot.close(figure)
    return picture.getvalue()


def _latency(axis: Any, report: Report, batches: Sequence[int]) -> None:
    lines = {f"pipeline{word}": (f"Onestroke {word[1:]}", OURS) for word in words(report)}
    lines["peer.diffusers_eager"] = ("diffusers", THEIRS)
    lines["peer.diffusers_compiled"] = ("diffusers, compiled", "#5c7cfa")
    for name, (label, colour) in lines.items():
        points = [(n, value) for n in batches if (value := report.get(f"{name}.b{n}.p50_ms"))]
        if not points:
            continue
        style = "o--" if name.endswith(".full") else "o-"
        axis.plot(*zip(*points, strict=True), style, label=label, color=colour)
        for n, value in points:
            axis.annotate(
                f"{value:.0f}", (n, value), (0, 5), textcoords="offset points", ha="center", fontsize=8
            )
    axis.set_title("Pipeline alone: ms for a batch\n(prompt text to JPEG bytes)", fontsize=9)
    axis.set_xticks(batches)
    axis.set_xlabel("pictures in the batch")
    axis.set_ylim(0)
    axis.legend(frameon=False, fontsize=8)


def _staged(report: Report) -> list[int]:
    return numbers(report, "stage.unet.b", ".p50_ms")


def _stages(axis: Any, report: Report, _: Sequence[int]) -> None:
    batches, bottom = _staged(report), [0.0] * len(_staged(report))
    for stage, colour in STAGES.items():
        times = [(report.get(f"stage.{stage}.b{n}.p50_ms") or 0.0) / n for n in batches]
        if any(times):
            axis.bar([f"batch of {n}" for n in batches], times, 0.5, bottom, label=stage, color=colour)
            bottom = [sum(pair) for pair in zip(bottom, times, strict=True)]
    axis.set_title("Stages: ms for one picture\n(of those drawn together)", fontsize=9)
    axis.legend(frameon=False, fontsize=8)


def _rate(axis: Any, report: Report, typists: Sequence[int]) -> None:
    _bars(axis, report, typists, "images_per_s", "{:.1f}")
    axis.set_title("Pictures per second\n(all typists together, more is better)", fontsize=9)


def _age(axis: Any, report: Report, typists: Sequence[int]) -> None:
    _bars(axis, report, typists, "prompt_age_p95_ms", "{:.0f}")
    axis.set_yscale("log")
    axis.set_title("Age of the shown prompt, p95, ms\n(key to picture, less is better)", fontsize=9)


def _bars(axis: Any, report: Report, typists: Sequence[int], row: str, text: str) -> None:
    there = [crowd for crowd in CROWDS if numbers(report, f"{crowd}.", f".{row}")]
    width = 0.85 / max(1, len(there))
    for i, crowd in enumerate(there):
        label, colour = CROWDS[crowd]
        values = [report.get(f"{crowd}.{n}.{row}") or 0.0 for n in typists]
        places = [place + (i - (len(there) - 1) / 2) * width for place in range(len(typists))]
        axis.bar(places, values, width * 0.92, label=label, color=colour)
        for place, value in zip(places, values, strict=True):
            axis.annotate(
                text.format(value), (place, value), (0, 2),
                textcoords="offset points", ha="center", fontsize=6,
            )  # fmt: skip
    axis.margins(y=0.15)
    axis.set_xticks(range(len(typists)), [str(n) for n in typists])
    axis.set_xlabel("people typing, each 8 keys/s")
