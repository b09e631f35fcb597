"""The run on a card: what it is made of, in which order, and how its parts become one JSON."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.__main__ import options_of, parser
from benchmarks.gpu import LEVERS, PARTS, Step, kept, named, run, steps_of
from benchmarks.results import Report, Row


def report(**rows: float) -> Report:
    made = Report("card", "2", "abc", 1, "tiny", "command")
    made.rows = [Row(name.replace("__", "."), value, "ms") for name, value in rows.items()]
    return made


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("batches", ["1,2,4,8,16", "1,2"])
def test_every_step_is_one_that_the_benchmark_takes(part: str, batches: str) -> None:
    for step in steps_of(part, "/model", batches, "cuda", quick=False):
        options = options_of(parser().parse_args(list(step.arguments)))
        assert options.model.levers["decoder"] == "full"
        assert {decoder.name for decoder in options.decoders} <= {"full", "tiny"}
        assert options.batches[0] == 1


def test_the_main_rows_come_first_and_every_lever_has_its_own() -> None:
    steps = list(steps_of("ours", "/model", "1,2,4,8,16", "cuda", quick=False))
    assert [step.prefix for step in steps[:2]] == ["", "lever.compile-off."]
    assert len({step.prefix for step in steps}) == len(LEVERS) + 1


def test_a_levers_rows_are_named_after_it_and_only_the_pipelines_are_kept() -> None:
    found = named(report(pipeline__b1=1.0, roofline__b1=2.0), "lever.graphs-off.")
    assert [row.name for row in found.rows] == ["lever.graphs-off.pipeline.b1"]
    assert len(named(report(roofline__b1=2.0), "").rows) == 1


def test_a_step_that_takes_too_long_is_told_to_stop() -> None:
    assert gpu.ended([sys.executable, "-c", "import time; time.sleep(60)"], 0.5) is None
    assert gpu.ended([sys.executable, "-c", "raise SystemExit(3)"], 60) == 3


def test_a_step_that_fails_or_has_no_time_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done = tmp_path / "done.json"
    report(pipeline__b1=1.0).write(done)
    script = tmp_path / "fake"
    script.write_text(f"""#!{sys.executable}
import shutil, sys
if "fails" in sys.argv: raise SystemExit(1)
shutil.copy({str(done)!r}, sys.argv[-1])
""")
    script.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(script))
    steps = [Step("good", ()), Step("bad", ("fails",)), Step("lever", (), "lever.x.")]
    found = run(iter(steps), budget=300)
    assert [row.name for each in found for row in each.rows] == ["pipeline.b1", "lever.x.pipeline.b1"]
    assert run(iter(steps), budget=gpu.LEAST - 1) == []
    said = capfd.readouterr().err
    assert "failed: bad" in said
    assert "left out for lack of time: good" in said


def test_parts_are_merged_into_one_file_and_what_does_not_belong_there_is_kept_apart(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert kept([report(pipeline__b1=1.0), report(lever__x__pipeline__b1=2.0)], out) == [out]
    assert kept([report(http__b1=3.0)], out) == [out]
    assert [row.name for row in Report.read(out).rows] == ["pipeline.b1", "lever.x.pipeline.b1", "http.b1"]
    other = report(socket__b1=4.0)
    other.commit = "def"
    (apart,) = kept([other], out)
    assert apart != out
    assert Report.read(apart).get("socket.b1") == 4.0
    assert len(Report.read(out).rows) == 3
