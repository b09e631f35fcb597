"""What cannot be loaded says why, and nothing but safetensors is read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from onestroke.errors import ModelError
from onestroke.levers import Levers
from onestroke.models.specs import ControlSpec, FileSpec, ModelSpec
from onestroke.pipelines import memory
from onestroke.pipelines.loading import load, load_all, pick_device, pick_dtype, power_buckets, step_buckets
from onestroke.pipelines.parts import memory_needed
from onestroke.pipelines.pipeline import Pipeline
from tests.pipelines.tiny_models import save_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture
def copy(spec: ModelSpec, tmp_path: Path) -> ModelSpec:
    folder = tmp_path / "copy"
    shutil.copytree(spec.source, folder)
    return replace(spec, source=str(folder))


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_missing_folder_is_said_to_be_missing(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load(replace(spec, source=str(tmp_path / "nowhere")), device="cpu")


def test_a_hub_id_that_is_not_in_the_cache_is_not_fetched(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="nobody/nothing"):
        load(replace(spec, source="nobody/nothing"), device="cpu")


def test_another_kind_of_pipeline_is_named(copy: ModelSpec) -> None:
    edit(Path(copy.source) / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ModelError, match="FluxPipeline"):
        load(copy, device="cpu")


def test_an_index_that_is_not_json_is_refused(copy: ModelSpec) -> None:
    (Path(copy.source) / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copy, device="cpu")


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
    ],
)
def test_a_corrupted_file_of_the_configuration_is_refused(copy: ModelSpec, name: str) -> None:
    (Path(copy.source) / name).write_text('{"a": ')
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copy, device="cpu")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unet/config.json", {"block_out_channels": [32, 96]}),
        ("vae/config.json", {"decoder_block_out_channels": [32, 32, 64]}),
        ("text_encoder/config.json", {"intermediate_size": 96}),
        ("text_encoder_2/config.json", {"num_hidden_layers": 3}),
    ],
)
def test_weights_of_another_shape_than_the_configuration_says_are_refused(
    copy: ModelSpec, name: str, values: dict[str, object]
) -> None:
    edit(Path(copy.source) / name, **values)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copy, device="cpu")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_file_cut_short_is_refused(copy: ModelSpec, part: str) -> None:
    (weights,) = (Path(copy.source) / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(copy, device="cpu")


def test_pickled_weights_are_not_read(copy: ModelSpec) -> None:
    folder = Path(copy.source) / "unet"
    (weights,) = folder.glob("*.safetensors")
    weights.unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load(copy, device="cpu")


def test_no_memory_is_said_to_be_no_memory(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr("onestroke.pipelines.loading.assemble", full)
    with pytest.raises(ModelError, match="memory of cpu"):
        load(spec, device="cpu")


def test_loading_says_how_far_along_it_is(spec: ModelSpec) -> None:
    told: list[tuple[str, float]] = []
    pipeline = load(spec, device="cpu", dtype="float32", progress=lambda *said: told.append(said))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert [stage for stage, _ in told if stage.endswith(": unet")] == ["loading tiny: unet"]
    assert (pipeline.device, pipeline.dtype, pipeline.max_batch) == (CPU, torch.float32, 8)


def test_a_kl_autoencoder_is_loaded_too(tmp_path: Path) -> None:
    spec = save_tiny_pipeline(tmp_path, kl=True)
    pipeline = load(spec, device="cpu", dtype="float32", max_batch=2)
    assert pipeline.warm_up()


def test_the_catalogs_dtype_holds_unless_another_is_asked_for(spec: ModelSpec) -> None:
    fixed = replace(spec, dtype="float32")
    assert load(fixed, device="cpu").dtype is torch.float32
    assert load(fixed, device="cpu", dtype="bfloat16").dtype is torch.bfloat16


def test_auto_picks_half_precision_on_a_gpu_and_bf16_only_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pick_dtype("auto", torch.device("cuda")) is torch.float16
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("onestroke.pipelines.loading.has_bf16", lambda has=has: has)
        assert pick_dtype("auto", CPU) is expected


@pytest.mark.parametrize("name", ["tpu", "cuda:99:1", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ModelError):
        pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    assert pick_device("auto").type != "cuda"
    with pytest.raises(ModelError, match="no cuda device"):
        pick_device("cuda")


def test_unknown_dtypes_and_empty_batches_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="float64"):
        load(spec, device="cpu", dtype="float64")
    with pytest.raises(ModelError, match="max_batch"):
        load(spec, device="cpu", max_batch=0)


def test_buckets_double_up_to_the_largest() -> None:
    assert [power_buckets(n) for n in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


@pytest.mark.parametrize(
    ("device", "dtype", "compiled", "threads", "buckets"),
    [
        ("cpu", torch.bfloat16, "off", 1, (1, 2, 3, 4, 5, 6, 7, 8, 16, 24)),
        ("cpu", torch.bfloat16, "off", 2, (1, 2, 4, 6, 8, 16, 24)),
        ("cpu", torch.bfloat16, "off", 4, (1, 2, 4, 8, 16, 24)),
        ("cpu", torch.float32, "off", 2, (1, 2, 4, 8, 16, 24)),
        ("cpu", torch.bfloat16, "full", 1, (1, 2, 4, 8, 16, 24)),
        ("cuda", torch.float16, "off", 1, (1, 2, 4, 8, 16, 24)),
    ],
)
def test_a_cpu_pads_less_where_that_changes_no_picture(
    device: str, dtype: torch.dtype, compiled: str, threads: int, buckets: tuple[int, ...]
) -> None:
    levers = Levers(compile=compiled)  # type: ignore[arg-type]
    assert step_buckets(24, torch.device(device), dtype, levers, threads) == buckets


def test_several_models_share_a_device_and_the_room_for_prompts(spec: ModelSpec) -> None:
    said: list[float] = []
    other = replace(spec, name="other")
    loaded = load_all(
        [spec, other],
        device="cpu", dtype="float32", levers=Levers(prompt_cache=10), max_batch=1,
        progress=lambda stage, fraction: said.append(fraction),
    )  # fmt: skip
    assert list(loaded) == ["tiny", "other"]
    assert said == sorted(said)
    assert said[-1] == 1.0
    for name, pipeline in loaded.items():
        assert isinstance(pipeline, Pipeline)
        assert (pipeline.spec.name, pipeline.levers.prompt_cache) == (name, 5)


def test_of_several_models_the_one_that_cannot_be_loaded_is_named(copy: ModelSpec) -> None:
    broken = replace(copy, name="broken")
    (Path(copy.source) / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="broken"):
        load_all([broken], device="cpu")


def test_models_that_do_not_fit_together_are_refused_before_one_is_read(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is not here yet counts as its row says, those on this machine by their weights."""
    far = replace(spec, name="far", source="nobody/nothing", memory_bytes=2_000_000_000)
    here = memory_needed(spec, torch.float32)
    assert 0 < here < 100_000_000
    assert memory_needed(far, torch.float32) == 4_000_000_000
    control = ControlSpec("edges", "sdxl", FileSpec("nobody/edges", download_bytes=2_000_000), spec.licence)
    steered = memory_needed(replace(spec, controls=(control,)), torch.float32)
    assert steered == pytest.approx(here + memory.WORKING_SPACE * 4_000_000, abs=8)
    monkeypatch.setattr(memory, "available_bytes", lambda: 3_900_000_000)
    with pytest.raises(
        ModelError, match=r"far is too much for cpu .* 3\.9 GB are free, and 4\.0 GB .*tiny 0\.0 GB"
    ):
        load_all([spec, far], device="cpu", dtype="float32")
