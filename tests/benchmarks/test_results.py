"""The report: its file, its table, its derived rows."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import html, plot
from benchmarks.__main__ import main
from benchmarks.compare import add_ratios
from benchmarks.results import NOTES, Report, Row, merge


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
    fields = {"device", "torch", "commit", "threads", "model", "command", "rows", "driver"}
    assert set(found) == fields
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


def test_a_report_written_before_there_were_drivers_is_read(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report.write(path)
    found = json.loads(path.read_text())
    del found["driver"]
    path.write_text(json.dumps(found))
    assert Report.read(path) == report


def test_ratios_are_above_one_where_ours_is_better(report: Report) -> None:
    add_ratios(report)
    assert report.get("ratio.pipeline.b1.p50") == 2
    assert report.get("ratio.typists.16.images_per_s") == 1
    assert "ratio.typists.1.images_per_s" not in report
    before = len(report.rows)
    add_ratios(report)
    assert len(report.rows) == before


def test_each_decoder_is_compared_with_a_peer_that_decodes_alike() -> None:
    report = Report("card", "2", "abc", 1, "m", "c")
    for name, value in {
        "pipeline.full.b1": 12.0,
        "pipeline.tiny.b1": 7.0,
        "peer.diffusers_eager.full.b1": 36.0,
        "peer.diffusers_eager.b1": 28.0,
        "peer.diffusers_compiled.b1": 14.0,
    }.items():
        report.add(f"{name}.p50_ms", value, "ms")
    report.add("estimate.sdxl_turbo.b1_ms", 84, "ms")
    add_ratios(report)
    assert report.rows[6:] == [
        Row("ratio.pipeline.full.b1.p50", 3, "x"),
        Row("ratio.pipeline.tiny.b1.p50", 4, "x"),
        Row("ratio.compiled.pipeline.tiny.b1.p50", 2, "x"),
        Row("ratio.estimate.sdxl_turbo.b1", 7, "x"),
    ]


def part(report: Report, command: str, rows: dict[str, float]) -> Report:
    return replace(report, command=command, rows=[Row(name, value, "ms") for name, value in rows.items()])


def test_runs_of_one_device_merge_and_are_compared_anew(report: Report) -> None:
    ours = part(report, "a", {"pipeline.b1.p50_ms": 10, "machine.run_s": 60, "machine.others_share": 0.1})
    rows = {"pipeline.b1.p50_ms": 11, "peer.diffusers_eager.b1.p50_ms": 30, "ratio.pipeline.b1.p50": 2.7}
    peers = part(report, "b", {**rows, "machine.run_s": 40, "machine.others_share": 0.2})
    merged = merge([ours, peers])
    add_ratios(merged)
    assert merged.command == "a && b"
    assert {row.name: row.value for row in merged.rows} == {
        "pipeline.b1.p50_ms": 10,
        "peer.diffusers_eager.b1.p50_ms": 30,
        "ratio.pipeline.b1.p50": 3,
        "machine.run_s": 100,
        "machine.others_share": 0.2,
    }


@pytest.mark.parametrize("name", ["device", "torch", "commit", "model", "driver"])
def test_runs_that_do_not_belong_together_are_refused(report: Report, name: str) -> None:
    with pytest.raises(ValueError, match=f"differ in {name}"):
        merge([report, replace(report, **{name: "another"})])


def test_the_html_report_holds_everything_and_asks_for_nothing_else(report: Report) -> None:
    report.add("estimate.sdxl_turbo.b1_ms", 84, "ms")
    page = html.render(replace(report, model="<script>, bfloat16"))
    assert all(row.name in page for row in report.rows)
    assert "<svg" in page
    assert html.escape(NOTES["estimate"]) in page
    assert "<script" not in page
    outside = re.findall(r"""(?:src|href)=["'](?!#)[^"']*|url\((?!#)[^)]*|@import""", page)
    assert not outside


def test_a_report_is_drawn_again_and_merged_from_files(report: Report, tmp_path: Path) -> None:
    path, both = tmp_path / "a.json", tmp_path / "both.json"
    report.write(path)
    assert main(["--report", str(path)]) == 0
    assert path.with_suffix(".html").read_text().startswith("<!doctype html>")
    assert path.with_suffix(".png").exists()
    assert main(["--merge", str(path), str(path), "--out", str(both), "--no-plot"]) == 0
    assert {row.name for row in report.rows} < {row.name for row in Report.read(both).rows}
    assert not both.with_suffix(".html").exists()


@pytest.mark.parametrize("asked", [["--report", "nowhere.json"], ["--merge", "nowhere.json", "--out", "x"]])
def test_a_file_that_is_not_there_is_named(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(asked)
    assert "nowhere.json" in capsys.readouterr().err


def test_the_plot_is_a_modest_picture(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.png"
    plot.draw(report, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 200_000


def test_a_report_without_figures_to_draw_gives_no_plot(tmp_path: Path) -> None:
    plot.draw(Report("cpu", "2", "abc", 2, "m", "c"), tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()
