"""ControlNets against diffusers' own pipelines, of SDXL and of SD 1.5, alone, over a picture, and among strangers.

The ControlNets are random ones with a say in the picture. Each comparison is shown to fail when one thing is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file

from onestroke.core import Control, GenerationRequest
from onestroke.errors import InvalidRequest, ModelError
from onestroke.levers import Levers
from onestroke.models.choosing import control_of
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.graphs import recording
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.samplers import SCHEDULERS
from onestroke.pipelines.warmup import warm_up
from tests.integration.test_parity import BOUND, OPTIONS, Pictures, draw, largest_difference
from tests.pictures import colours, source
from tests.pipelines.test_graphs import Replays
from tests.pipelines.tiny_models import save_tiny_pipeline, save_tiny_sd, tiny_control

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

KINDS = {
    "sdxl": (
        diffusers.StableDiffusionXLControlNetPipeline,
        diffusers.StableDiffusionXLControlNetImg2ImgPipeline,
    ),
    "sd": (diffusers.StableDiffusionControlNetPipeline, diffusers.StableDiffusionControlNetImg2ImgPipeline),
}
LINES, OTHER, START = colours(seed=3), colours(seed=4), colours()
NAMES = ("edge", "depth")
MAKE: dict[str, Callable[[Path], ModelSpec]] = {
    "sdxl": save_tiny_pipeline,
    "sd15": lambda folder: save_tiny_sd(folder, "sd15"),
}


@pytest.fixture(scope="module")
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp(request.param)
    spec = replace(MAKE[request.param](folder / "model"), name="tiny")
    unet = UNet2DConditionModel.from_pretrained(folder / "model", subfolder="unet")
    for seed, name in enumerate(NAMES):
        tiny_control(unet, seed).save_pretrained(folder / name)
    return replace(spec, controls=tuple(control_of(f"{name}={folder / name}", spec) for name in NAMES))


@pytest.fixture(scope="module")
def ours(spec: ModelSpec) -> Pipeline:
    return load(spec, device="cpu", dtype="float32")


Oracle = Callable[[GenerationRequest], Pictures]


@pytest.fixture(scope="module")
def oracle(spec: ModelSpec) -> Oracle:
    """Draws by diffusers; an `image` is START."""
    return drawn_by_diffusers(spec, torch.float32)


def drawn_by_diffusers(spec: ModelSpec, dtype: torch.dtype) -> Oracle:
    nets = {
        each.name: ControlNetModel.from_pretrained(each.weights.source, torch_dtype=dtype)
        for each in spec.controls
    }
    plain, over = KINDS[spec.family]
    base = plain.from_pretrained(
        spec.source,
        controlnet=nets["edge"],
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        **OPTIONS[spec.family],
    )
    scheduler = base.scheduler

    def call(request: GenerationRequest, lines: Any = LINES) -> Pictures:
        assert request.control is not None
        options: dict[str, Any] = {"clip_sample": False} if request.sampler == "ddim" else {}
        parts = {
            **base.components,
            "controlnet": nets[request.control.name],
            "scheduler": getattr(diffusers, SCHEDULERS[request.sampler]).from_config(
                scheduler.config, **options
            ),
        }
        pictures = {"image": lines}
        if request.image:
            pictures = {"image": START, "control_image": lines, "strength": request.strength}
        if spec.family == "sd":
            parts["requires_safety_checker"] = False
        pipeline = (over if request.image else plain)(**parts)
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(
            prompt=[request.prompt],
            negative_prompt=None if request.negative_prompt is None else [request.negative_prompt],
            **pictures,
            controlnet_conditioning_scale=request.control.scale,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=[torch.Generator().manual_seed(request.seed)],
            width=64,
            height=64,
            output_type="np",
        ).images
        return (images * 255).round().astype(np.int16)

    return call


def control(name: str = "edge", scale: float = 0.7, lines: Any = LINES) -> Control:
    return Control(name, source(lines), scale)


def request_of(seed: int, **values: Any) -> GenerationRequest:
    standard = {"prompt": "a cat", "width": 64, "height": 64, "control": control()}
    return GenerationRequest("tiny", seed=seed, **{**standard, **values})


GUIDANCE: dict[str, dict[str, Any]] = {
    "unguided": {},
    "guided": {"guidance_scale": 3.0},
    "negative": {"guidance_scale": 3.0, "negative_prompt": "blue dogs"},
}
OVER = {"image": source(START), "strength": 0.6}


@pytest.mark.parametrize(
    ("spec", "sampler", "steps", "guidance"),
    [
        *(
            ("sdxl", "euler_ancestral", steps, guidance)
            for steps, guidance in itertools.product((1, 4), GUIDANCE)
        ),
        ("sdxl", "lcm", 2, "unguided"),
        ("sdxl", "ddim", 20, "negative"),
        *(("sd15", "ddim", 4, guidance) for guidance in GUIDANCE),
        ("sd15", "euler", 20, "negative"),
    ],
    indirect=["spec"],
)
def test_pictures_are_those_of_diffusers(
    oracle: Oracle, ours: Pipeline, sampler: str, steps: int, guidance: str
) -> None:
    request = request_of(7, sampler=sampler, steps=steps, **GUIDANCE[guidance])
    assert largest_difference(draw(ours, [request]), oracle(request)) <= BOUND


@pytest.mark.parametrize("spec", MAKE, indirect=True)
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_a_picture_is_started_from_and_steered(oracle: Oracle, ours: Pipeline, guidance: str) -> None:
    request = request_of(7, sampler="ddim", steps=5, **OVER, **GUIDANCE[guidance])
    assert largest_difference(draw(ours, [request]), oracle(request)) <= BOUND


@pytest.mark.parametrize("spec", MAKE, indirect=True)
def test_steered_rows_ride_with_strangers_and_each_net_runs_on_its_own(oracle: Any, ours: Pipeline) -> None:
    requests = [
        request_of(1, sampler="ddim", steps=4, guidance_scale=3.0),
        request_of(2, sampler="lcm", steps=4, control=None),
        request_of(3, sampler="euler", steps=3, control=control("depth", 0.4, OTHER), prompt="a dog"),
        request_of(4, sampler="ddim", steps=4, **OVER),
        request_of(5, sampler="euler", steps=1, control=None, guidance_scale=2.0),
    ]
    before = ours.denoiser.forwards, [ours.controls[name].rows for name in NAMES]
    mine = draw(ours, requests)
    edge, depth = (ours.controls[name].rows - rows for name, rows in zip(NAMES, before[1], strict=True))
    assert ours.denoiser.forwards - before[0] == 4, "one forward a step, whoever is in it"
    assert (edge, depth) == (2 * 4 + 2, 3)
    for picture, request in zip(mine, requests, strict=True):
        if request.control is None:
            assert largest_difference(picture[None], draw(ours, [request])) <= BOUND
        else:
            lines = OTHER if request.seed == 3 else LINES
            assert largest_difference(picture[None], oracle(request, lines)) <= BOUND


@pytest.mark.parametrize("spec", ["sdxl"], indirect=True)
def test_a_stranger_is_bit_identical_beside_a_steered_row(ours: Pipeline) -> None:
    stranger = request_of(2, steps=2, sampler="euler", control=None)
    alone = draw(ours, [stranger, replace(stranger, seed=9)])
    beside = draw(ours, [stranger, request_of(1, steps=2, sampler="euler")])
    assert np.array_equal(alone[0], beside[0])


WRONG = {
    "scale": {"control": control(scale=0.8)},
    "no scale": {"control": control(scale=0.0)},
    "control image": {"control": control(lines=OTHER)},
    "another net": {"control": control("depth")},
    "no control": {"control": None},
    "seed": {"seed": 8},
    "strength": {"strength": 0.8},
}


@pytest.mark.parametrize(("spec", "what"), itertools.product(MAKE, WRONG), indirect=["spec"])
def test_the_comparison_fails_when_one_thing_is_wrong(oracle: Oracle, ours: Pipeline, what: str) -> None:
    right = request_of(7, sampler="ddim", steps=5, **OVER, **GUIDANCE["guided"])
    assert largest_difference(draw(ours, [replace(right, **WRONG[what])]), oracle(right)) > BOUND


@pytest.mark.parametrize("spec", MAKE, indirect=True)
def test_in_half_precision_it_is_no_further_from_the_oracle_than_diffusers_own(
    spec: ModelSpec, oracle: Oracle
) -> None:
    """One step over eight seeds, which so few pixels need."""
    requests = [request_of(seed, sampler="euler", steps=1) for seed in range(8)]
    mine, theirs = load(spec, device="cpu", dtype="bfloat16"), drawn_by_diffusers(spec, torch.bfloat16)
    exact = np.concatenate([oracle(request) for request in requests])
    own = np.abs(draw(mine, requests) - exact)
    other = np.abs(np.concatenate([theirs(request) for request in requests]) - exact)
    assert own.mean() <= 1.1 * other.mean()
    assert np.percentile(own, 99) <= 1.1 * np.percentile(other, 99)
    off = [replace(request, control=control(scale=0.0)) for request in requests]
    assert np.abs(draw(mine, off) - exact).mean() > 1.1 * other.mean()


@pytest.mark.parametrize("spec", ["sdxl"], indirect=True)
def test_typing_over_one_control_image_reads_it_once(ours: Pipeline) -> None:
    net = ours.controls["edge"]
    net.cache.clear()
    calls: list[int] = []
    hook = net._read_image.register_forward_pre_hook(lambda *_: calls.append(1))
    draw(ours, [request_of(1, steps=2, prompt=prompt) for prompt in ("a cat", "a cats")])
    draw(ours, [request_of(1, steps=2)])
    hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("spec", ["sdxl"], indirect=True)
def test_the_text_that_a_controlnet_reads_is_not_taken_out_of_the_unet(
    spec: ModelSpec, ours: Pipeline
) -> None:
    """Levers that rebuild the UNet's attention leave the ControlNet's alone; keys and values stay in the pass."""
    rebuilt = load(spec, device="cpu", dtype="float32", levers=Levers(fuse="on", encode_kv="on"))
    request = request_of(1, steps=2, guidance_scale=3.0)
    assert largest_difference(draw(rebuilt, [request]), draw(ours, [request])) <= BOUND
    assert rebuilt.levers.encode_kv == "off"


@pytest.mark.parametrize("spec", ["sdxl"], indirect=True)
def test_a_single_file_draws_what_its_folder_draws(spec: ModelSpec, ours: Pipeline, tmp_path: Path) -> None:
    edge, _ = spec.controls
    net = ControlNetModel.from_pretrained(edge.weights.source)
    assert list(net.config.conditioning_embedding_out_channels) == [8, 16, 32]
    save_file(net.state_dict(), tmp_path / "edge.safetensors")
    one = replace(spec, controls=(control_of(f"edge={tmp_path / 'edge.safetensors'}", spec),))
    request = request_of(1, steps=2)
    mine = draw(load(one, device="cpu", dtype="float32"), [request])
    assert largest_difference(mine, draw(ours, [request])) <= BOUND


@pytest.mark.parametrize("spec", ["sdxl"], indirect=True)
def test_a_controlnet_of_another_kind_of_model_is_refused(spec: ModelSpec, tmp_path: Path) -> None:
    save_tiny_sd(tmp_path / "sd", "sd15")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "sd", subfolder="unet")
    tiny_control(unet).save_pretrained(tmp_path / "edge")
    wrong = replace(spec, controls=(control_of(f"edge={tmp_path / 'edge'}", spec),))
    with pytest.raises(ModelError, match="was made for another kind of model"):
        load(wrong, device="cpu")
    file = tmp_path / "edge" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ModelError, match="was made for another kind of model"):
        load(replace(spec, controls=(control_of(f"edge={file}", spec),)), device="cpu")
    file = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ModelError, match="holds no ControlNet"):
        load(replace(spec, controls=(control_of(f"edge={file}", spec),)), device="cpu")


@pytest.mark.parametrize("spec", ["sdxl"], indirect=True)
def test_an_unknown_controlnet_names_its_field(ours: Pipeline) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ours.prepare(1, request_of(1, control=control("pose")))
    assert refused.value.field == "control.name"


@pytest.mark.parametrize("spec", ["sdxl"], indirect=True)
def test_steered_passes_are_recorded_in_the_warm_up_and_replayed(spec: ModelSpec, ours: Pipeline) -> None:
    recorder = Replays()
    replaying = load(spec, device="cpu", dtype="float32", max_batch=2)
    for graphed in (replaying.denoiser.graphed, *(net.graphed for net in replaying.controls.values())):
        graphed.recorder = recorder
    with recording(recorder):
        timed = warm_up(replaying, lambda stage, fraction: None)
    steps = [(each.n, each.steered) for each in timed if each.verb == "step"]
    sizes = [n for n in replaying.denoiser.buckets for _ in range(3)]
    assert steps == [*((n, 0) for n in sizes), *((n, n) for _ in NAMES for n in sizes)]
    made = recorder.recorded
    for requests in ([request_of(1, steps=2)], [request_of(1, steps=2), request_of(2, control=None)]):
        assert largest_difference(draw(replaying, requests), draw(ours, requests)) <= BOUND
    assert recorder.recorded == made, "nothing is recorded while it serves"
