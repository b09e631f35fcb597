"""The report: its file, its table, its derived rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import plot
from benchmarks.results import Report


@pytest.fixture
def report() -> Report:
    report = Report("AMD EPYC, 2 cores", "2.13.0", "abc", 2, "embedded, bfloat16", "python -m benchmarks")
    for n in (1, 8):
        report.add(f"pipeline.b{n}.p50_ms", 30.0 * n, "ms")
        report.add(f"peer.diffusers_eager.b{n}.p50_ms", 60.0 * n, "ms")
    for name in ("", "naive."):
        for n in (1, 16):
            report.add(f"{name}typists.{n}.images_per_s", 10.0 * n, "images/s")
            report.add(f"{name}typists.{n}.prompt_age_p95_ms", 100.0, "ms")
    return report


def test_the_file_has_exactly_the_promised_fields(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    report.write(path)
    found = json.loads(path.read_text())
    assert set(found) == {"device", "torch", "commit", "threads", "model", "command", "rows"}
    assert all(set(row) == {"name", "value", "unit"} for row in found["rows"])
    assert all(isinstance(row["value"], float) for row in found["rows"])
    assert Report.read(path) == report


def test_a_figure_that_could_not_be_had_is_left_out(report: Report) -> None:
    report.add("typists.1.fairness", math.nan, "x")
    assert "typists.1.fairness" not in report


def test_a_name_is_used_once(report: Report) -> None:
    with pytest.raises(ValueError, match="there already"):
        report.add("pipeline.b1.p50_ms", 1, "ms")


def test_ratios_and_differences_come_of_rows_that_are_there(report: Report) -> None:
    report.ratio("ratio", "peer.diffusers_eager.b1.p50_ms", "pipeline.b1.p50_ms")
    report.difference("difference", "pipeline.b8.p50_ms", "pipeline.b1.p50_ms")
    report.ratio("none", "missing", "pipeline.b1.p50_ms")
    assert report.get("ratio") == 2
    assert report.get("difference") == 210
    assert "none" not in report


def test_the_table_names_every_row(report: Report) -> None:
    text = "\n".join(report.table())
    assert all(row.name in text for row in report.rows)


def test_the_plot_is_a_modest_picture(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.png"
    plot.draw(report, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 200_000


def test_a_report_without_figures_to_draw_gives_no_plot(tmp_path: Path) -> None:
    plot.draw(Report("cpu", "2", "abc", 2, "m", "c"), tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()
