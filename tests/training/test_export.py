"""Editions are compared by what judges them, and packed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training import export
from training.paths import HERE


def test_editions_are_compared_alike_by_quick_reports() -> None:
    """A quarter of the things stands for all of them; who draws as many worse has fewer points."""
    part = {"n": 200, "concept": 0.9, "background": 1.0, "psnr": 20.0}
    names = ("on white", "held-out backgrounds", "held-out recolourings")
    whole = {"reading": {"fresh captions": {"all": 0.7}}, "things": 200, **dict.fromkeys(names, part)}
    quick = {**whole, "on white": {**part, "n": 50}}
    assert export.points(quick) == export.points(whole)
    assert export.points({**quick, "on white": {**part, "concept": 0.8}}) < export.points(quick)


def test_editions_are_compared_by_the_same_yardstick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped edition that was judged by other words or rules, or on fewer pictures, is judged again."""
    monkeypatch.setattr(export, "SHIPPED", tmp_path)
    monkeypatch.setattr(export, "judge", lambda *_: {"anew": True})
    assert export.shipped(quick=True) is None  # there is none
    (tmp_path / "docs").mkdir()
    (tmp_path / "unet").mkdir()
    report = tmp_path / "docs" / "report.json"
    report.write_text(json.dumps({"yardstick": export.yardstick(True)}))
    assert export.shipped(quick=True) == {"yardstick": export.yardstick(True)}
    assert export.shipped(quick=False) == {"anew": True}
    report.write_text(json.dumps({"reading": {}}))  # from before there were yardsticks
    assert export.shipped(quick=True) == {"anew": True}


def test_the_yardstick_is_all_that_judging_asks() -> None:
    """Whatever `evaluate` imports, but for the judge apart, and for how networks are trained."""
    asked, found = ["evaluate"], set[str]()
    while asked:
        name = asked.pop()
        found.add(name)
        source = (HERE / f"{name}.py").read_text()
        imported = re.findall(r"^from training\.(\w+) import", source, re.M)
        for names in re.findall(r"^from training import ([\w, ]+)", source, re.M):
            imported += names.split(", ")
        asked += sorted(set(imported) - found)
    assert {f"{name}.py" for name in found} - set(export.YARDSTICK) == {
        "judge.py",
        "loop.py",
        "optim.py",
        "paths.py",
    }


def test_large_weights_ship_in_a_byte(tmp_path: Path) -> None:
    """As near as float8 is, but for the ends and the shortcuts; what does not fit there is not exported."""
    weight = torch.full((4, 4), 0.0413, dtype=torch.float16)
    path = tmp_path / "unet.safetensors"
    save_file(
        {"conv1.weight": weight, "conv1.bias": weight[0].clone(), "conv_in.weight": weight.clone()}, path
    )
    export.pack(path, export.EXACT["unet"])
    packed = load_file(path)
    assert packed["conv1.weight"].dtype == torch.float8_e4m3fn
    assert torch.allclose(packed["conv1.weight"].float(), weight.float(), rtol=1 / 16)
    assert torch.equal(packed["conv1.bias"], weight[0])
    assert torch.equal(packed["conv_in.weight"], weight)
    save_file({"conv1.weight": torch.full((4, 4), 449.0)}, path)
    with pytest.raises(SystemExit, match=r"conv1\.weight is too large"):
        export.pack(path, export.EXACT["unet"])
