"""The folder of compiled artifacts is whole or it is not used; which modules are compiled."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from torch import nn

from onestroke.models.specs import ModelSpec
from onestroke.pipelines.compiled import MANIFEST, CompiledCache, cache_home, compile_network
from onestroke.pipelines.loading import load

SETTINGS = {"model": "tiny", "card": "none"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/nowhere")


def fill(cache: CompiledCache) -> Path:
    """What a compiler does: files under the folder that the environment names."""
    where = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    (where / "ab").mkdir(parents=True)
    (where / "ab" / "kernel.so").write_bytes(b"\x7fELF" * 100)
    (where / "graph").write_bytes(b"graph")
    (where / "ab.lock").touch()
    return where


@pytest.fixture
def sealed(tmp_path: Path) -> CompiledCache:
    cache = CompiledCache(tmp_path, SETTINGS)
    fill(cache)
    cache.seal({"attention": "flash"})
    return cache


def test_what_was_sealed_is_found_again_with_what_was_remembered(
    tmp_path: Path, sealed: CompiledCache
) -> None:
    assert not sealed.hit
    again = CompiledCache(tmp_path, SETTINGS)
    assert again.hit
    assert again.notes == {"attention": "flash"}
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == again.folder
    assert "found" in again.described()
    assert str(again.folder) in again.described()


def test_nothing_is_found_before_it_is_sealed(tmp_path: Path) -> None:
    first = CompiledCache(tmp_path, SETTINGS)
    where = fill(first)
    assert not CompiledCache(tmp_path, SETTINGS).hit
    assert where.stat().st_mode & 0o077 == 0, "artifacts are code: nobody else may write there"


def test_other_settings_have_a_folder_of_their_own(tmp_path: Path, sealed: CompiledCache) -> None:
    for name in SETTINGS:
        other = CompiledCache(tmp_path, {**SETTINGS, name: "another"})
        assert not other.hit
        assert other.folder != sealed.folder


@pytest.mark.parametrize("damage", ["cut short", "one bit", "missing", "no manifest", "wrong manifest"])
def test_a_damaged_folder_is_left_and_made_anew(
    tmp_path: Path, sealed: CompiledCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kernel, manifest = sealed.folder / "ab" / "kernel.so", sealed.folder / MANIFEST
    match damage:
        case "cut short":
            kernel.write_bytes(kernel.read_bytes()[:-1])
        case "one bit":
            kernel.write_bytes(kernel.read_bytes()[:-1] + b"G")
        case "missing":
            kernel.unlink()
        case "no manifest":
            manifest.unlink()
        case "wrong manifest":
            manifest.write_text("[]")
    again = CompiledCache(tmp_path, SETTINGS)
    assert not again.hit
    assert again.notes == {}
    assert "damaged" in caplog.text
    fill(again)
    again.seal({})
    assert CompiledCache(tmp_path, SETTINGS).hit


def test_of_two_that_compile_at_once_the_first_is_kept(tmp_path: Path) -> None:
    first, second = CompiledCache(tmp_path, SETTINGS), CompiledCache(tmp_path, SETTINGS)
    fill(second)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(first._where)
    fill(first)
    first.seal({"attention": "flash"})
    second.seal({"attention": "cudnn"})
    assert CompiledCache(tmp_path, SETTINGS).notes == {"attention": "flash"}
    assert [path.name for path in first.folder.parent.iterdir()] == [first.key]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path, sealed: CompiledCache) -> None:
    left = sealed.folder.with_name(f"{sealed.key}.1-1")
    left.mkdir()
    os.utime(left, (0, 0))
    shutil.rmtree(sealed.folder)
    CompiledCache(tmp_path, SETTINGS)
    assert not left.exists()


def test_the_folder_is_the_users_own_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_home(str(tmp_path)) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "onestroke"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_home() == Path.home() / ".cache" / "onestroke"


def test_regional_compiles_the_blocks_that_repeat_and_full_the_whole(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(type(module).__name__))
    pipeline = load(spec, device="cpu", dtype="float32")
    unet, encoder = pipeline.denoiser.unet, pipeline.text.encoders[0]
    for how, network, name, expected in (
        ("off", unet, "unet", set()),
        ("regional", unet, "unet", {"BasicTransformerBlock"}),
        ("full", unet, "unet", {"UNet2DConditionModel"}),
        ("regional", encoder, "text", {"CLIPMLP"}),
        ("regional", nn.Linear(2, 2), "decoder", {"Linear"}),
    ):
        compiled.clear()
        assert compile_network(network, how, name) == len(compiled)
        assert set(compiled) == expected
