from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from onestroke import __version__
from onestroke.cli import cli
from onestroke.models.cards import card
from onestroke.models.catalog import CATALOG
from onestroke.settings import Settings

runner = CliRunner()


def test_help_lists_every_command() -> None:
    out = runner.invoke(cli, ["--help"]).output
    for command in ("serve", "generate", "fetch", "warm", "models", "doctor"):
        assert command in out


def test_the_version() -> None:
    assert __version__ in runner.invoke(cli, ["--version"]).output


def test_every_setting_but_the_key_has_a_flag() -> None:
    out = runner.invoke(cli, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for name in Settings.model_fields:
        assert ("--" + name.replace("_", "-") in out) == (name != "api_key"), name


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["serve", "--device", "tpu"], "--device"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--max-batch", "0"], "--max-batch"),
        (["serve", "--model", "nonesuch"], "nonesuch"),
        (["generate", "a fox", "-o", "fox.bmp"], "--output"),
        (["generate", "a fox", "-o", "/nowhere/fox.png"], "--output"),
        (["generate", "", "-o", "fox.png"], "prompt"),
        (["generate", "a fox", "--size", "513x7"], "size"),
        (["generate", "a fox", "--steps", "1000"], "steps"),
        (["generate", "a fox", "--image", "/nowhere/fox.png"], "--image"),
        (["generate", "a fox", "--model", "sd15", "--image", "pyproject.toml"], "image is no PNG"),
        (["generate", "a fox", "--strength", "0.5"], "strength goes with image"),
        (["generate", "a fox", "--mask", "docs/page.png"], "mask goes with image"),
        (["generate", "a fox", "--control", "docs/page.png"], "--controlnet"),
        (["generate", "a fox", "--model", "sd15", "--controlnet", "canny"], "--control too"),
        (["generate", "a fox", "--adapter", "ink=nowhere.safetensors:0.5"], "nowhere.safetensors"),
        (["generate", "a fox", "--adapter", "ink=docs:9"], "scale of 'ink'"),
    ],
)
def test_a_wrong_flag_is_named_before_anything_slow_starts(arguments: list[str], word: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onestroke", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_ray_that_is_not_installed_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "onestroke.ray", raising=False)
    out = runner.invoke(cli, ["serve", "--ray"])
    assert out.exit_code == 1
    assert "onestroke[ray]" in out.output


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTROKE_MAX_WAIT", "soon")
    out = runner.invoke(cli, ["generate", "a fox"])
    assert out.exit_code == 1
    assert "ONESTROKE_MAX_WAIT" in out.output


def test_models_shows_licences() -> None:
    out = runner.invoke(cli, ["models"], env={"COLUMNS": "250"}).output
    assert "embedded" in out
    assert "non-commercial" in out
    assert "limits: no legible text" in out
    assert "memory: 10.5 GB" in out
    assert "from stabilityai/sdxl-turbo@" in out


def test_models_as_json_says_of_every_row_what_a_client_is_told() -> None:
    rows = json.loads(runner.invoke(cli, ["models", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(CATALOG)
    for row, spec in zip(rows, CATALOG.values(), strict=True):
        here = row.pop("here")
        assert row == card(spec)
        assert isinstance(here, bool)
        assert row["limits"]
        assert row["memory_bytes"]
        assert row["licence"]["commercial"] is not None or "Hyper" in row["licence"]["url"]
        assert (row["source"] is None) == (row["name"] == "embedded")


def test_doctor_finds_a_port_that_is_taken(tmp_path: Path) -> None:
    import socket

    from onestroke import doctor

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor._port(taken.getsockname()[1])
    assert not finding.ok
    assert "--port" in finding.cure


def test_doctor_says_in_one_line_which_models_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from onestroke import doctor

    monkeypatch.setattr(doctor, "is_cached", lambda spec: spec.name in ("sdxl-turbo", "sd15"))
    finding = doctor._weights()
    assert finding.found == f"2 of {len(CATALOG) - 1} are here: sdxl-turbo, sd15"
    assert "onestroke models" in finding.cure
    assert finding.ok


def test_a_port_that_is_taken_is_said_with_the_cure() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "onestroke", "serve", "--port", port],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "--port" in done.stderr
