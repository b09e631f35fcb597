"""Image-to-image against diffusers' own pipelines, of SDXL and of SD 1.5, with a list of CPU generators.

Both kinds of VAE: AutoencoderKL draws its latents before the noise, AutoencoderTiny does not draw. Each comparison
is shown to fail when one thing is wrong.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from onestroke.core import GenerationRequest
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.rows import Row
from onestroke.pipelines.samplers import SCHEDULERS, sampler_table
from tests.integration.test_parity import BOUND, OPTIONS, Pictures, draw, largest_difference
from tests.pictures import colours, source
from tests.pipelines.tiny_models import save_tiny_pipeline, save_tiny_sd

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

KINDS = {
    "sdxl": diffusers.StableDiffusionXLImg2ImgPipeline,
    "sd": diffusers.StableDiffusionImg2ImgPipeline,
}
START = colours()
GUIDANCE: dict[str, dict[str, Any]] = {
    "unguided": {},
    "guided": {"guidance_scale": 3.0},
    "negative": {"guidance_scale": 3.0, "negative_prompt": "blue dogs"},
}


MAKE: dict[str, Callable[..., ModelSpec]] = {
    "sdxl": save_tiny_pipeline,
    "sdxl-kl": lambda folder: save_tiny_pipeline(folder, kl=True),
    "sd15": lambda folder: save_tiny_sd(folder, "sd15"),
}


@pytest.fixture(scope="module")
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return replace(MAKE[request.param](tmp_path_factory.mktemp(request.param)), name="tiny")


@pytest.fixture(scope="module")
def ours(spec: ModelSpec) -> Pipeline:
    return load(spec, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def oracle(spec: ModelSpec) -> Any:
    pipeline = KINDS[spec.family].from_pretrained(
        spec.source, use_safetensors=True, local_files_only=True, **OPTIONS[spec.family]
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def request_of(seed: int, **values: Any) -> GenerationRequest:
    standard = {"width": 64, "height": 64, "image": source(START), "strength": 0.6}
    return GenerationRequest("tiny", seed=seed, **{"prompt": "a cat", **standard, **values})


def call(oracle: Any, request: GenerationRequest, start: Any = START) -> Pictures:
    """The same picture by diffusers."""
    options: dict[str, Any] = {"clip_sample": False} if request.sampler == "ddim" else {}
    kind = getattr(diffusers, SCHEDULERS[request.sampler])
    model_scheduler = oracle.scheduler
    oracle.scheduler = kind.from_config(model_scheduler.config, **options)
    try:
        images = oracle(
            prompt=[request.prompt],
            negative_prompt=None if request.negative_prompt is None else [request.negative_prompt],
            image=start,
            strength=request.strength,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=[torch.Generator().manual_seed(request.seed)],
            output_type="np",
        ).images
    finally:
        oracle.scheduler = model_scheduler
    return (images * 255).round().astype(np.int16)


STEPS = ((1, 1.0), (2, 0.5), (4, 0.6), (20, 0.3))
CASES = [
    *(
        (model, sampler, *steps, "negative")
        for model, sampler, steps in itertools.product(("sdxl", "sdxl-kl"), SCHEDULERS, STEPS)
    ),
    *(("sdxl-kl", "euler", 4, 0.6, guidance) for guidance in ("unguided", "guided")),
    *(("sd15", "ddim", *steps, guidance) for steps, guidance in itertools.product(STEPS, GUIDANCE)),
    ("sd15", "lcm", 4, 0.6, "unguided"),
]


@pytest.mark.parametrize(("spec", "sampler", "steps", "strength", "guidance"), CASES, indirect=["spec"])
def test_pictures_are_those_of_diffusers(
    oracle: Any, ours: Pipeline, sampler: str, steps: int, strength: float, guidance: str
) -> None:
    request = request_of(7, sampler=sampler, steps=steps, strength=strength, **GUIDANCE[guidance])
    assert largest_difference(draw(ours, [request]), call(oracle, request)) <= BOUND


@pytest.mark.parametrize("spec", MAKE, indirect=True)
def test_rows_that_start_from_pictures_ride_with_strangers(oracle: Any, ours: Pipeline) -> None:
    other = colours(seed=1)
    requests = [
        request_of(1, sampler="ddim", steps=4, strength=0.5),
        request_of(2, sampler="lcm", steps=4, image=None, strength=None),
        request_of(3, sampler="euler", steps=3, strength=1.0, image=source(other), prompt="a dog"),
        request_of(4, sampler="ddim", steps=20, strength=0.1, guidance_scale=3.0),
    ]
    before = ours.denoiser.forwards
    mine = draw(ours, requests)
    assert ours.denoiser.forwards - before == 4, "one forward a step, whoever is in it"
    for picture, request in zip(mine, requests, strict=True):
        if request.image is None:
            assert largest_difference(picture[None], draw(ours, [request])) <= BOUND
        else:
            start = other if request.seed == 3 else START
            assert largest_difference(picture[None], call(oracle, request, start)) <= BOUND


def start_index_off(ours: Pipeline, row: Row) -> None:
    """The right number of steps, from another place."""
    request = row.request
    other = sampler_table(ours._scheduler, request.sampler, request.steps, None, request.steps_taken - 1)
    row.table = dataclasses.replace(other, steps=(row.table.steps[0], *other.steps))


def picture_off(ours: Pipeline, row: Row) -> None:
    row.table = dataclasses.replace(row.table, picture=row.table.picture * 1.1)


def noise_off(ours: Pipeline, row: Row) -> None:
    row.latents = row.latents * 1.03


WRONG: dict[str, dict[str, Any]] = {
    "strength": {"strength": 0.8},
    "seed": {"seed": 8},
    "picture": {"image": source(colours(seed=1))},
    "steps": {"steps": 5},
    "negative prompt": {"negative_prompt": "dogs"},
}
TAMPERED = {"start index": start_index_off, "share of the picture": picture_off, "noise off by 3%": noise_off}


@pytest.mark.parametrize(
    ("spec", "what"), itertools.product(("sdxl", "sdxl-kl"), (*WRONG, *TAMPERED)), indirect=["spec"]
)
def test_the_comparison_fails_when_one_thing_is_wrong(oracle: Any, ours: Pipeline, what: str) -> None:
    right = request_of(7, sampler="ddim", steps=5, strength=0.6, **GUIDANCE["negative"])
    if what == "steps":
        right = replace(right, steps=4, strength=0.75)
    tamper = TAMPERED.get(what)
    wrong = draw(ours, [replace(right, **WRONG.get(what, {}))], tamper and (lambda row: tamper(ours, row)))
    assert largest_difference(wrong, call(oracle, right)) > BOUND


@pytest.mark.parametrize("spec", ["sdxl-kl"], indirect=True)
def test_typing_over_one_picture_encodes_it_once(ours: Pipeline) -> None:
    ours.encoder.cache.clear()
    before = ours.encoder.encoded
    first = draw(ours, [request_of(1, steps=2, prompt=prompt) for prompt in ("a cat", "a cats")])
    again = draw(ours, [request_of(1, steps=2)])
    assert ours.encoder.encoded == before + 1
    assert np.array_equal(again[0], first[0])


@pytest.mark.parametrize("spec", ["sdxl-kl"], indirect=True)
def test_the_encoder_runs_in_fp32_whatever_the_rest_runs_in(spec: ModelSpec, oracle: Any) -> None:
    """SDXL's overflows in fp16, and its VAE says so; the SD family's is safe."""
    half = load(spec, device="cpu", dtype="bfloat16")
    request = request_of(1, steps=4, sampler="euler")
    assert half.encoder.dtype is torch.float32
    assert np.abs(draw(half, [request]) - call(oracle, request)).mean() < 3
