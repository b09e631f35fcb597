"""Downloads by the hub's real client from a hub on a local port: what is fetched, what is not, what goes wrong."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from onestroke.cli import cli
from onestroke.errors import ModelError
from onestroke.models import hub
from onestroke.models.catalog import VAES
from onestroke.models.choosing import resolve
from onestroke.models.specs import FileSpec, Licence, ModelSpec
from tests.fake_hub import COMMIT, TOKEN, Hub, serving_hub

ID = "somebody/tiny"
SPEC = ModelSpec(
    name="tiny", source=ID, family="sd", description="", licence=Licence("none", commercial=True)
)
WEIGHTS = {
    "unet/diffusion_pytorch_model.fp16.safetensors": 3000,
    "text_encoder/model.fp16.safetensors": 2000,
    "vae/diffusion_pytorch_model.fp16.safetensors": 1000,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline"},
    "scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler"},
    "unet/config.json": {"in_channels": 4, "out_channels": 4, "sample_size": 64},
    "vae/config.json": {"_class_name": "AutoencoderKL", "block_out_channels": [1, 1, 1, 1]},
    "text_encoder/config.json": {},
    "tokenizer/vocab.json": {"a": 1},
}
NOT_WANTED = ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin", "README.md",
              "safety_checker/model.safetensors", "v1-5-pruned.ckpt")  # fmt: skip


class Told(NamedTuple):
    stage: str
    fraction: float


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, and an empty cache."""
    folder = tmp_path / "repository"
    for name, config in CONFIGS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    for i, (name, size) in enumerate({**WEIGHTS, **dict.fromkeys(NOT_WANTED, 10)}.items()):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes([i]) * size)
    with serving_hub() as running:
        running.repositories[ID] = folder
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


def test_what_is_needed_is_fetched_and_nothing_else(fake: Hub) -> None:
    assert not hub.is_cached(SPEC)
    folder = hub.fetch(SPEC)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *CONFIGS,
        *WEIGHTS,
    }
    assert hub.is_cached(SPEC)
    for name in WEIGHTS:
        assert (folder / name).read_bytes() == (fake.repositories[ID] / name).read_bytes()


def test_the_command_says_where_it_has_put_it_and_on_what_terms(fake: Hub) -> None:
    done = CliRunner().invoke(cli, ["fetch", ID], env={"COLUMNS": "400"})
    assert done.exit_code == 0
    assert f"{ID} is in {constants.HF_HUB_CACHE}" in done.output
    assert "(unknown)" in done.output


def test_what_is_cached_is_not_asked_for_again(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.fetch(SPEC)
    fake.asked.clear()
    assert hub.fetch(SPEC) == folder
    assert hub.describe(ID, None) == folder
    assert fake.asked == []


def test_progress_rises_to_the_end_and_says_how_much(fake: Hub) -> None:
    told: list[Told] = []
    hub.fetch(SPEC, lambda stage, fraction: told.append(Told(stage, fraction)))
    fractions = [each.fraction for each in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any(each.stage.startswith("downloading tiny: 50% of") for each in told)


def test_a_download_that_breaks_off_goes_on_where_it_was(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # 10 MB, of which what is not whole is lost
    name = "unet/diffusion_pytorch_model.fp16.safetensors"
    fake.cut.add(Path(name).name)
    told: list[float] = []
    folder = hub.fetch(SPEC, lambda stage, fraction: told.append(fraction))
    assert (folder / name).read_bytes() == (fake.repositories[ID] / name).read_bytes()
    assert [span for method, path, span in fake.asked if method == "GET" and path.endswith(name)] == [
        None,
        "bytes=1500-",
    ]
    assert told[-1] == 1.0


def test_files_that_are_whole_are_kept_when_the_rest_fails(
    fake: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    tokens, vae = "vocab.json", "vae/diffusion_pytorch_model.fp16.safetensors"
    broken = fake.repositories[ID] / "text_encoder/model.fp16.safetensors"
    fake.broken.add(broken.name)
    with pytest.raises(ModelError, match="500"):
        hub.fetch(SPEC)
    assert not hub.is_cached(SPEC)
    assert any(name.endswith(tokens) for name in fake.downloaded)
    fake.broken.clear()
    fake.asked.clear()
    hub.fetch(SPEC)
    assert fake.downloaded == ["text_encoder/model.fp16.safetensors", vae]


def test_a_revision_is_pinned(fake: Hub) -> None:
    pinned = replace(SPEC, revision=COMMIT)
    assert hub.fetch(pinned).name == COMMIT
    assert hub.is_cached(pinned)
    assert not hub.is_cached(replace(SPEC, revision="b" * 40))
    with pytest.raises(ModelError, match="no revision 'v9'"):
        hub.fetch(replace(SPEC, revision="v9"))


def test_a_hub_id_is_described_by_its_small_files(fake: Hub) -> None:
    spec = resolve(f"{ID}@{COMMIT}")
    assert (spec.family, spec.sampler, spec.default_steps, spec.guidance_scale) == ("sd", "ddim", 50, 7.5)
    assert "PNDM" in spec.note
    assert spec.revision == COMMIT
    assert not any(name.endswith((".safetensors", ".bin")) for name in fake.downloaded)


def test_a_gated_model_says_how_to_get_in_and_lets_a_token_in(
    fake: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.gated.add(ID)
    with pytest.raises(ModelError, match=r"gated: accept its terms at http.*HF_TOKEN"):
        hub.fetch(SPEC)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.fetch(SPEC)


def test_an_unknown_id_is_named(fake: Hub) -> None:
    with pytest.raises(ModelError, match="there is no model nobody/nothing"):
        resolve("nobody/nothing")
    with pytest.raises(ModelError, match="there is no model nobody/nothing"):
        hub.fetch(replace(SPEC, source="nobody/nothing"))


def test_a_repository_without_a_pipeline_is_said_to_be_none(fake: Hub) -> None:
    (fake.repositories[ID] / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"no diffusers pipeline \(model_index.json is missing\)"):
        resolve(ID)
    with pytest.raises(ModelError, match="not a whole diffusers folder"):
        hub.fetch(SPEC)


def test_pickled_weights_alone_are_refused_before_anything_is_fetched(fake: Hub) -> None:
    folder = fake.repositories[ID] / "unet"
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match="pickled"):
        hub.fetch(SPEC)
    assert fake.downloaded == []


def test_offline_mode_is_honoured_and_said(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for ask in (lambda: hub.fetch(SPEC), lambda: hub.describe(ID, None)):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
            ask()
    assert fake.asked == []


def test_no_network_is_said_to_be_none(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    for ask in (lambda: hub.fetch(SPEC), lambda: hub.describe(ID, None)):
        with pytest.raises(ModelError, match=r"127\.0\.0\.1:9 cannot be reached"):
            ask()


def test_a_hub_that_is_down_is_said_to_be_down(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    fake.status = 503
    with pytest.raises(ModelError, match="503"):
        hub.fetch(SPEC)


def test_no_room_on_the_disk_is_said_before_the_download(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: usage._replace(free=hub.SPARE_BYTES + 5999))
    with pytest.raises(ModelError, match=r"GB left: free some.*HF_HOME"):
        hub.fetch(SPEC)
    assert fake.downloaded == []


def test_a_disk_that_fills_up_is_said_to_be_full(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ModelError, match="disk is full"):
        hub.fetch(SPEC)


def test_a_vae_by_name_is_fetched_alone(fake: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "taesd"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"1")
    (folder / "taesd_decoder.pth").write_bytes(b"2")
    fake.repositories["madebyollin/taesd"] = folder
    found = hub.fetch(replace(VAES["taesd"], revision=COMMIT))
    assert {path.name for path in found.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_a_unet_beside_its_base_takes_its_place(fake: Hub, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "unet.safetensors").write_bytes(b"1")
    fake.repositories["somebody/else"] = other
    unet = FileSpec("somebody/else", "unet.safetensors")
    spec = replace(SPEC, unet=unet)
    folder = hub.fetch(spec)
    assert not (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    assert not hub.is_cached(spec), "the UNet is still to come"
    assert hub.fetch(unet).read_bytes() == b"1"
    assert hub.is_cached(spec)
    assert not hub.is_cached(SPEC)
    with pytest.raises(ModelError, match=r"nothing\.safetensors is missing"):
        hub.fetch(replace(unet, file="nothing.safetensors"))


def test_a_controlnet_is_fetched_beside_its_model_in_half_precision(fake: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "edge"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors", "x.bin"):
        (folder / name).write_bytes(bytes(10))
    fake.repositories["somebody/edge"] = folder
    asked = ["fetch", ID, "--controlnet", "edge=somebody/edge"]
    outcome = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "somebody/edge is in" in outcome.output
    assert "diffusion_pytorch_model.fp16.safetensors" in fake.downloaded
    assert not {"diffusion_pytorch_model.safetensors", "x.bin"} & set(fake.downloaded)
