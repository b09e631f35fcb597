"""LoRAs merged in place: what they draw is peft's, what they leave behind is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from onestroke.core import AdapterUse
from onestroke.errors import InvalidRequest, ModelError
from onestroke.levers import Levers
from onestroke.models.specs import AdapterSpec, FileSpec, ModelSpec
from onestroke.pipelines.fp8 import quantise
from onestroke.pipelines.loading import load
from onestroke.pipelines.lora import lora_file, read_lora
from onestroke.pipelines.pipeline import Pipeline
from tests.integration.test_parity import BOUND, diffusers_pipeline, draw, largest_difference, request_of
from tests.pipelines.loras import ADAPTED_TEXT, random_factors, save_kohya, save_peft
from tests.pipelines.tiny_models import SIZE, save_tiny_sd

FUSED = Levers(fuse="on", encode_kv="on")


@pytest.fixture(scope="module")
def oracle(spec: ModelSpec) -> Any:
    """diffusers' pipeline with the files "style" and "words" loaded by peft."""
    return diffusers_pipeline(spec, torch.float32)


@pytest.fixture(scope="module")
def files(oracle: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ "style" adapts the UNet, convolutions too, in kohya's layout; "words" UNet and text encoders, in peft's."""
    folder = tmp_path_factory.mktemp("loras")
    words = {
        "unet": random_factors(oracle.unet, ("to_k", "to_v"), seed=1),
        "text_encoder": random_factors(oracle.text_encoder, ADAPTED_TEXT, seed=2),
        "text_encoder_2": random_factors(oracle.text_encoder_2, ADAPTED_TEXT, seed=3),
    }
    return {
        "style": save_kohya(
            folder / "style.safetensors",
            {
                "unet": random_factors(
                    oracle.unet, ("attn1.to_q", "attn2.to_v", "to_out.0", "conv1", "proj_in")
                )
            },
        ),
        "words": save_peft(folder / "words.safetensors", words),
    }


@pytest.fixture(scope="module")
def adapted(oracle: Any, files: dict[str, Path]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft finds a second adapter worth one
        for name, path in files.items():
            oracle.load_lora_weights(str(path), adapter_name=name)
    return oracle


@pytest.fixture(scope="module", params=["plain", "fused"])
def ours(spec: ModelSpec, files: dict[str, Path], request: pytest.FixtureRequest) -> Pipeline:
    return with_adapters(load(spec, device="cpu", dtype="float32",
                              levers=FUSED if request.param == "fused" else Levers()), files)  # fmt: skip


def with_adapters(pipeline: Pipeline, files: dict[str, Path]) -> Pipeline:
    for name, path in files.items():
        pipeline.add_adapter(AdapterSpec(name, FileSpec(str(path))))
    return pipeline


def asked(spec: ModelSpec, *uses: tuple[str, float], seed: int = 1, **values: Any) -> Any:
    values = {"steps": 2, "sampler": "euler", "guidance_scale": 2.0, "negative_prompt": "", **values}
    return request_of(spec, seed, adapters=tuple(AdapterUse(*use) for use in uses), **values)


def by_peft(oracle: Any, *uses: tuple[str, float]) -> Any:
    from diffusers import EulerDiscreteScheduler

    oracle.scheduler = EulerDiscreteScheduler.from_config(oracle.scheduler.config)
    if uses:
        oracle.enable_lora()
        oracle.set_adapters([name for name, _ in uses], [scale for _, scale in uses])
    else:
        oracle.disable_lora()
    images = oracle(
        "a cat", negative_prompt="", num_inference_steps=2, guidance_scale=2.0, width=SIZE, height=SIZE,
        generator=torch.Generator().manual_seed(1), output_type="np",
    ).images  # fmt: skip
    return (images * 255).round().astype(np.int16)


USES = {
    "none": (),
    "style": (("style", 1.0),),
    "style, weaker": (("style", 0.6),),
    "words": (("words", 0.8),),
    "both": (("style", 0.5), ("words", -0.4)),
}


def test_adapters_draw_what_peft_draws(spec: ModelSpec, adapted: Any, ours: Pipeline) -> None:
    drawn = {}
    for what, uses in USES.items():
        theirs = by_peft(adapted, *uses)
        stranger = asked(spec, *uses, seed=2, sampler="lcm", guidance_scale=0.0, negative_prompt=None)
        drawn[what] = draw(ours, [stranger, asked(spec, *uses)])[1:]
        assert largest_difference(drawn[what], theirs) <= BOUND, what
    for one, other in (("none", "style"), ("style", "style, weaker"), ("none", "words"), ("both", "style")):
        assert largest_difference(drawn[one], drawn[other]) > BOUND, (one, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("levers", [Levers(), FUSED], ids=["plain", "fused"])
def test_what_was_merged_is_taken_out_to_the_last_bit(
    spec: ModelSpec, files: dict[str, Path], dtype: str, levers: Levers
) -> None:
    pipeline = with_adapters(load(spec, device="cpu", dtype=dtype, levers=levers), files)
    before = draw(pipeline, [asked(spec)])
    styled = draw(pipeline, [asked(spec, ("style", 0.7))])
    assert np.abs(styled - before).max() > BOUND
    assert np.array_equal(draw(pipeline, [asked(spec)]), before)
    draw(pipeline, [asked(spec, ("words", 1.0))])
    assert np.array_equal(draw(pipeline, [asked(spec, ("style", 0.7))]), styled), "whatever came between"


def test_weights_stay_where_they_are_and_the_same_set_is_merged_once(spec: ModelSpec, ours: Pipeline) -> None:
    def addresses() -> dict[str, int]:
        named = ours.denoiser.unet.named_parameters()
        return {name: weight.data_ptr() for name, weight in named if weight.data_ptr()}

    before = addresses()
    assert ours.use_adapters([AdapterUse("style", 1.0)])
    assert not ours.use_adapters([AdapterUse("style", 1.0)])
    assert ours.use_adapters([])
    assert addresses() == before


def test_a_prompt_is_encoded_again_where_an_adapter_changes_that(
    spec: ModelSpec, files: dict[str, Path]
) -> None:
    pipeline = with_adapters(load(spec, device="cpu", dtype="float32"), files)
    draw(pipeline, [asked(spec)])
    known = len(pipeline.text.cache)
    draw(pipeline, [asked(spec, ("style", 1.0))])
    assert len(pipeline.text.cache) == known, "its keys and values are not made with the prompt here"
    draw(pipeline, [asked(spec, ("words", 1.0))])
    assert len(pipeline.text.cache) == 2 * known


def test_an_adapter_that_is_gone_fails_its_rows_and_harms_no_others(
    spec: ModelSpec, files: dict[str, Path]
) -> None:
    pipeline = with_adapters(load(spec, device="cpu", dtype="float32"), files)
    plain = draw(pipeline, [asked(spec)])
    draw(pipeline, [asked(spec, ("style", 1.0))])
    pipeline.remove_adapter("style")
    with pytest.raises(InvalidRequest, match="no adapter 'style'") as caught:
        draw(pipeline, [asked(spec, ("style", 1.0))])
    assert caught.value.field == "adapters"
    assert np.array_equal(draw(pipeline, [asked(spec)]), plain)


def test_the_original_names_of_sdxls_blocks_are_understood(
    spec: ModelSpec, tmp_path: Path, oracle: Any
) -> None:
    """As kohya's SDXL scripts write them: input_blocks.3.1 is down_blocks.1.attentions.0 here."""
    module = "transformer_blocks.0.attn1.to_q"
    factors = random_factors(oracle.unet, (f"down_blocks.1.attentions.0.{module}",))
    ((name, pair),) = factors.items()
    file = save_kohya(tmp_path / "a.safetensors", {"unet": {f"input_blocks.3.1.{module}": pair}})
    read = read_lora(file, oracle.unet.config)
    assert list(read["unet"]) == [name]
    delta = read["unet"][name].delta(torch.Size((64, 64)))
    assert torch.allclose(delta, pair[1] @ pair[0], atol=1e-6), "alpha / rank is in it"


def test_alphas_in_the_files_metadata_count(spec: ModelSpec, tmp_path: Path, oracle: Any) -> None:
    factors = random_factors(oracle.unet, ("attn1.to_q",))
    name, (down, up) = next(iter(factors.items()))
    said = {"unet.lora_alpha": 1, "unet.alpha_pattern": {name: 8}, "unet.r": 4}
    metadata = {"lora_adapter_metadata": json.dumps(said)}
    read = read_lora(save_peft(tmp_path / "a.safetensors", {"unet": factors}, metadata), oracle.unet.config)
    assert torch.allclose(read["unet"][name].delta(torch.Size((64, 64))), 2 * up @ down, atol=1e-6)
    other = next(each for each in factors if each != name)
    assert torch.allclose(read["unet"][other].up, factors[other][1] / 4)


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], None], to: Path) -> Path:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, to)
    return to


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "it is a DoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "hada_w1_a"),
        ("lora_prior_blocks_0.lora_down.weight", "lora_prior_blocks_0"),
        ("unet.mid_block.attentions.0.proj_in.lora_A.bias", "proj_in.lora_A.bias"),
    ],
)
def test_a_key_that_is_not_understood_is_named(
    files: dict[str, Path], tmp_path: Path, oracle: Any, key: str, words: str
) -> None:
    file = files["words" if key.startswith("unet.") else "style"]
    broken = changed(file, lambda tensors: tensors.update({key: torch.ones(4)}), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=words):
        read_lora(broken, oracle.unet.config)


def test_half_a_pair_is_refused(files: dict[str, Path], tmp_path: Path, oracle: Any) -> None:
    def without_one(tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop(next(key for key in tensors if key.startswith("unet") and "lora_B" in key))

    with pytest.raises(ModelError, match="only one factor"):
        read_lora(changed(files["words"], without_one, tmp_path / "a.safetensors"), oracle.unet.config)


def test_an_adapter_of_another_base_model_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    sd15 = load(save_tiny_sd(tmp_path / "sd15", "sd15"), device="cpu", dtype="float32")
    for path in files.values():
        with pytest.raises(ModelError, match="made for another base model"):
            sd15.add_adapter(AdapterSpec("x", FileSpec(str(path))))


def test_an_adapter_of_sd_with_its_text_encoder_draws_what_peft_draws(tmp_path: Path) -> None:
    spec = save_tiny_sd(tmp_path / "sd15", "sd15")
    oracle = diffusers_pipeline(spec, torch.float32)
    parts = {
        "unet": random_factors(oracle.unet),
        "text_encoder": random_factors(oracle.text_encoder, ADAPTED_TEXT),
    }
    file = save_kohya(tmp_path / "sd.safetensors", parts, encoder="lora_te")
    pipeline = with_adapters(load(spec, device="cpu", dtype="float32"), {"x": file})
    oracle.load_lora_weights(str(file), adapter_name="x")
    mine = draw(pipeline, [asked(spec, ("x", 0.5))])
    assert largest_difference(mine, by_peft(oracle, ("x", 0.5))) <= BOUND
    assert largest_difference(draw(pipeline, [asked(spec)]), mine) > BOUND


def test_layers_in_eight_bits_are_refused(spec: ModelSpec, files: dict[str, Path]) -> None:
    pipeline = load(spec, device="cpu", dtype="float32")
    assert quantise(pipeline.denoiser.unet, torch.device("cpu"), least=16)
    with pytest.raises(ModelError, match="--quantize off"):
        pipeline.add_adapter(AdapterSpec("style", FileSpec(str(files["style"]))))


def test_a_folder_holds_the_usual_file_or_a_single_one(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(b"")
    assert lora_file(tmp_path).name == "one.safetensors"
    (tmp_path / "two.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="name one of them"):
        lora_file(tmp_path)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"")
    assert lora_file(tmp_path).name == "pytorch_lora_weights.safetensors"


def test_reading_needs_no_peft(files: dict[str, Path], tmp_path: Path, oracle: Any) -> None:
    """The server does not depend on it."""
    oracle.unet.save_config(tmp_path)
    script = (
        "import sys; sys.modules['peft'] = None\n"
        "import json; from pathlib import Path; from types import SimpleNamespace\n"
        "from onestroke.pipelines.lora import read_lora\n"
        f"config = SimpleNamespace(**json.loads(Path({str(tmp_path / 'config.json')!r}).read_text()))\n"
        f"for path in {[str(path) for path in files.values()]!r}: assert read_lora(Path(path), config)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
