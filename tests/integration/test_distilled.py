"""SDXL's and SD's distilled kin as the catalog has them, against diffusers' pipelines set up as model cards say.

Each system is a tiny random checkpoint of its architecture and layout: a base model's folder, and beside it a UNet
in a file of its own or a LoRA. Their rows ride with strangers of other samplers and guidance.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

from onestroke.app import create_app
from onestroke.errors import InvalidRequest
from onestroke.models.catalog import RECIPES
from onestroke.models.specs import FileSpec, ModelSpec
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline
from onestroke.settings import Settings
from tests.integration.test_parity import (
    BOUND,
    Pictures,
    Tamper,
    diffusers_pipeline,
    draw,
    entry_off,
    largest_difference,
    request_of,
    timestep_off,
)
from tests.pipelines.loras import random_factors, save_kohya
from tests.pipelines.tiny_models import SIZE, save_tiny_pipeline, save_tiny_sd, tiny_vae

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

PATIENCE = 240.0

PUBLISHED: dict[str, Any] = {
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}
"""What the base models' scheduler configurations hold beside their betas."""

TRAILING = {"timestep_spacing": "trailing"}
CARDS: dict[str, tuple[str, dict[str, Any], list[int] | None]] = {
    "dmd2-1step": ("LCMScheduler", {}, [399]),
    "dmd2-4step": ("LCMScheduler", {}, [999, 749, 499, 249]),
    "dmd2-4step-lora": ("LCMScheduler", {}, [999, 749, 499, 249]),
    "sdxl-lightning-1step": ("EulerDiscreteScheduler", {**TRAILING, "prediction_type": "sample"}, None),
    "sdxl-lightning-2step": ("EulerDiscreteScheduler", TRAILING, None),
    "sdxl-lightning-4step": ("EulerDiscreteScheduler", TRAILING, None),
    "sdxl-lightning-8step": ("EulerDiscreteScheduler", TRAILING, None),
    "sdxl-lightning-4step-lora": ("EulerDiscreteScheduler", TRAILING, None),
    "hyper-sdxl-1step": ("LCMScheduler", {}, [800]),
    "hyper-sdxl-2step-lora": ("DDIMScheduler", TRAILING, None),
    "hyper-sdxl-8step-lora": ("DDIMScheduler", TRAILING, None),
    "hyper-sd15-4step-lora": ("DDIMScheduler", TRAILING, None),
    "lcm-lora-sdxl": ("LCMScheduler", {}, None),
    "lcm-lora-sd15": ("LCMScheduler", {}, None),
    "lcm-sdxl": ("LCMScheduler", {}, None),
    "lcm-dreamshaper": ("LCMScheduler", {}, None),
    "sdxs-512": ("DDIMScheduler", TRAILING, None),
    "sd14": ("DDIMScheduler", {}, None),
}
"""The scheduler, its changed values and the timesteps that the system's model card (MIT, ByteDance, ...) gives."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    """By family or system, with a scheduler that is configured as the published one is."""
    found = {
        "sdxl": save_tiny_pipeline(tmp_path_factory.mktemp("sdxl")),
        "sd": save_tiny_sd(tmp_path_factory.mktemp("sd15"), "sd15"),
    }
    found["lcm-dreamshaper"] = save_tiny_sd(tmp_path_factory.mktemp("lcm"), "sd15", time_cond_proj_dim=16)
    found["sdxs-512"] = save_tiny_sd(
        tmp_path_factory.mktemp("sdxs"), "sd21", vae=tiny_vae(), mid_block_type=None
    )
    for spec in found.values():
        path = Path(spec.source, "scheduler", "scheduler_config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **PUBLISHED}))
    return found


@pytest.fixture(scope="module")
def systems(
    bases: dict[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[ModelSpec, Any]]:
    return {name: made(name, bases, tmp_path_factory.mktemp(name)) for name in CARDS}


@pytest.fixture(scope="module")
def system(
    request: pytest.FixtureRequest, systems: dict[str, tuple[ModelSpec, Any]]
) -> tuple[ModelSpec, Any]:
    return systems[request.param]


def made(name: str, bases: dict[str, ModelSpec], folder: Path) -> tuple[ModelSpec, Any]:
    """A row of the catalog over a tiny base, and diffusers' pipeline with the same weights and that scheduler."""
    row = RECIPES[name]
    base = bases.get(name, bases[row.family])
    spec = replace(row, source=base.source, revision=None, variant=None, sizes=((SIZE, SIZE),))
    oracle = diffusers_pipeline(base, torch.float32)
    if row.unet or name == "dmd2-1step":
        if row.embeds_guidance:
            config = {**oracle.unet.config, "time_cond_proj_dim": 16}
            oracle.unet = type(oracle.unet).from_config(config).eval()
        with torch.no_grad():
            for weight in oracle.unet.parameters():
                weight.add_(torch.randn_like(weight) * weight.std().nan_to_num() * 0.2)
        if row.unet and not row.unet.file:
            oracle.unet.save_pretrained(folder / "unet")
            spec = replace(spec, unet=FileSpec(str(folder / "unet")))
        else:
            save_file(oracle.unet.state_dict(), folder / "unet.safetensors")
            spec = replace(spec, unet=FileSpec(str(folder / "unet.safetensors")))
    if row.loras:
        file = save_kohya(folder / "lora.safetensors", {"unet": random_factors(oracle.unet)})
        spec = replace(spec, loras=(FileSpec(str(file)),))
        oracle.load_lora_weights(str(file))
    kind, values, _ = CARDS[name]
    oracle.scheduler = getattr(diffusers, kind).from_config(oracle.scheduler.config, **values)
    return spec, oracle


@pytest.fixture(scope="module")
def ours(system: tuple[ModelSpec, Any]) -> Pipeline:
    return load(system[0], device="cpu", dtype="float32")


def defaults(spec: ModelSpec, seed: int, **values: Any) -> Any:
    """A request as the faces resolve it."""
    steps = spec.default_steps
    known = {
        "steps": steps,
        "sampler": spec.sampler,
        "guidance_scale": spec.guidance_scale,
        "embeds_guidance": spec.embeds_guidance,
        "timesteps": dict(spec.timesteps).get(steps),
    }
    return request_of(spec, seed, **{**known, **values})


def by_diffusers(spec: ModelSpec, oracle: Any, seed: int) -> Pictures:
    images = oracle(
        "a cat",
        num_inference_steps=spec.default_steps,
        timesteps=CARDS[spec.name][2],
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        width=SIZE,
        height=SIZE,
        output_type="np",
    ).images
    return (images * 255).round().astype(np.int16)


@pytest.mark.parametrize("system", CARDS, indirect=True)
def test_a_system_draws_what_diffusers_draws_among_strangers(
    system: tuple[ModelSpec, Any], ours: Pipeline
) -> None:
    spec, oracle = system
    other = next(name for name in ("ddim", "euler") if name != spec.sampler)
    stranger = defaults(spec, 5, sampler=other, timesteps=None, guidance_scale=3.0, prompt="a dog")
    mine = draw(ours, [defaults(spec, 11), stranger, defaults(spec, 12)])
    for i, seed in ((0, 11), (2, 12)):
        assert largest_difference(mine[i : i + 1], by_diffusers(spec, oracle, seed)) <= BOUND


WRONG: dict[str, tuple[Tamper | None, int]] = {
    "seed": (None, 12),
    "entry": (entry_off("b"), 11),
    "timestep": (timestep_off, 11),
}


@pytest.mark.parametrize("system", [name for name in CARDS if name != "sd14"], indirect=True)
def test_the_comparison_fails_when_one_thing_is_wrong(system: tuple[ModelSpec, Any], ours: Pipeline) -> None:
    spec, _ = system
    right = draw(ours, [defaults(spec, 11)])
    if spec.extras:
        plain = replace(spec, unet=None, loras=(), embeds_guidance=False)
        base = load(plain, device="cpu", dtype="float32")
        assert largest_difference(draw(base, [defaults(spec, 11)]), right) > BOUND, "the base model's weights"
    for what, (tamper, seed) in WRONG.items():
        assert largest_difference(draw(ours, [defaults(spec, seed)], tamper), right) > BOUND, what


@pytest.mark.parametrize("system", ["lcm-dreamshaper", "lcm-sdxl"], indirect=True)
def test_guidance_as_an_input_is_each_rows_own_and_costs_no_second_row(
    system: tuple[ModelSpec, Any], ours: Pipeline
) -> None:
    spec, oracle = system
    scales = (0.0, 1.5, 8.5)
    requests = [defaults(spec, 11, guidance_scale=scale) for scale in scales]
    assert sum(request.unet_rows for request in requests) == len(scales)
    mine = draw(ours, requests)
    for i, scale in enumerate(scales):
        theirs = by_diffusers(replace(spec, guidance_scale=scale), oracle, 11)
        assert largest_difference(mine[i : i + 1], theirs) <= BOUND
    assert largest_difference(mine[:1], mine[2:]) > BOUND


# -- served ----------------------------------------------------------------------------------------------------

SERVED = [name for name in CARDS if "2step" not in name and "8step" not in name and name != "sd14"]
"""One of each that differ in more than their steps, and that draw in one row a picture."""


@pytest.fixture(scope="module")
def http(systems: dict[str, tuple[ModelSpec, Any]]) -> Iterator[TestClient]:
    """One server of them, through the app and a worker."""
    settings = Settings(device="cpu", dtype="float32", threads=1, max_batch=1, max_wait=PATIENCE)
    app = create_app(settings, [systems[name][0] for name in SERVED])
    with TestClient(app, base_url="http://localhost") as client:
        until = time.monotonic() + PATIENCE
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < until, "not ready"
            time.sleep(0.1)
        yield client


@pytest.mark.parametrize("system", SERVED, indirect=True)
def test_a_system_is_served_over_rest(system: tuple[ModelSpec, Any], http: TestClient) -> None:
    """By its name alone: steps, sampler, timesteps and guidance are its row's."""
    spec, oracle = system
    asked = {"model": spec.name, "prompt": "a cat", "seed": 11, "format": "png"}
    answer = http.get("/v1/generate", params=asked)
    assert answer.status_code == 200, answer.text
    picture = np.asarray(Image.open(io.BytesIO(answer.content)), np.int16)
    assert largest_difference(picture[None], by_diffusers(spec, oracle, 11)) <= BOUND
    if spec.only_steps:
        refused = http.get("/v1/generate", params={**asked, "steps": spec.default_steps + 1})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "steps")


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].only_steps])
def test_a_checkpoint_of_other_steps_names_the_field(name: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f"steps must be {RECIPES[name].default_steps} for {name}"
    ) as caught:
        RECIPES[name].check_steps(RECIPES[name].default_steps + 1)
    assert caught.value.field == "steps"
