"""Muse against diffusers' AmusedPipeline, and served: tiny random models of both of aMUSEd's layouts.

AmusedScheduler fails on lists of generators, so the oracle draws one picture at a time. Tokens are equal, pictures
within BOUND levels of 255; each comparison is shown to fail when one thing is wrong.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import AmusedInpaintPipeline, AmusedPipeline, AmusedScheduler
from PIL import Image
from typer.testing import CliRunner

from onestroke.cli import cli
from onestroke.core import GenerationRequest
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import load
from onestroke.pipelines.muse.editing import inpaint
from onestroke.pipelines.muse.pipeline import MusePipeline, MuseRow
from tests.pipelines.tiny_models import SIZE, save_tiny_muse
from tests.servers import serving

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("one_thread")]

BOUND = 1
"""The largest difference from the oracle's picture in fp32, in levels of 255."""

Pixels = npt.NDArray[Any]
Tamper = Callable[[MuseRow], None]


@pytest.fixture(scope="module", params=["amused-256", "amused-512"])
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return save_tiny_muse(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def oracle(spec: ModelSpec) -> Any:
    pipeline = AmusedPipeline.from_pretrained(spec.source, use_safetensors=True, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def ours(spec: ModelSpec) -> MusePipeline:
    pipeline = load(spec, device="cpu", dtype="float32")
    assert isinstance(pipeline, MusePipeline)
    return pipeline


def request_of(spec: ModelSpec, seed: int, **values: Any) -> GenerationRequest:
    width, height = spec.default_size
    values = {"prompt": "a cat", "steps": 12, "width": width, "height": height, **values}
    return GenerationRequest(spec.name, seed=seed, sampler="amused", **values)


def draw(
    pipeline: MusePipeline, requests: list[GenerationRequest], tamper: Tamper | None = None
) -> list[tuple[torch.Tensor, Pixels]]:
    """Tokens and pictures of the requests, all in one batch; `tamper` spoils rows before they run."""
    rows = [pipeline.prepare(i, request) for i, request in enumerate(requests)]
    for row in rows if tamper else []:
        tamper(row)  # type: ignore[misc]
    return finish(pipeline, rows)


def finish(pipeline: MusePipeline, rows: list[MuseRow]) -> list[tuple[torch.Tensor, Pixels]]:
    """Tokens and pictures of prepared rows, stepped together."""
    pipeline.encode(rows)
    while running := [row for row in rows if not row.finished]:
        assert not pipeline.step(running).failed
    pixels = [picture for _, pictures in pipeline.decode(rows) for picture in pictures]
    return [(row.tokens, each) for row, each in zip(rows, pixels, strict=True)]


def call(oracle: Any, request: GenerationRequest) -> tuple[torch.Tensor, Pixels]:
    """The oracle's tokens and picture."""
    tokens, picture = (
        oracle(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            micro_conditioning_crop_coord=request.crop,
            generator=torch.Generator().manual_seed(request.seed),
            width=request.width,
            height=request.height,
            output_type=kind,
        ).images[0]
        for kind in ("latent", "np")
    )
    return tokens, (picture * 255).round()


def same(mine: tuple[torch.Tensor, Pixels], theirs: tuple[torch.Tensor, Pixels]) -> bool:
    """Whether the tokens are equal and the pictures within BOUND; refuses flat pictures."""
    assert theirs[1].std() > 20
    return torch.equal(mine[0], theirs[0]) and np.abs(mine[1] - theirs[1]).max() <= BOUND


GUIDANCE: dict[str, dict[str, Any]] = {
    "unguided": {},
    "no negative prompt": {"guidance_scale": 10.0},
    "empty negative prompt": {"guidance_scale": 3.0, "negative_prompt": ""},
    "negative prompt": {"guidance_scale": 6.0, "negative_prompt": "blue dogs"},
}


@pytest.mark.parametrize("steps", [1, 2, 7, 12, 50])
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_tokens_and_pictures_are_those_of_diffusers(
    spec: ModelSpec, oracle: Any, ours: MusePipeline, steps: int, guidance: str
) -> None:
    request = request_of(spec, 2**53 - 1, steps=steps, **GUIDANCE[guidance])
    assert same(draw(ours, [request])[0], call(oracle, request))


def test_a_mixed_batch_draws_what_separate_calls_to_diffusers_draw(
    spec: ModelSpec, oracle: Any, ours: MusePipeline
) -> None:
    requests = [
        request_of(spec, 1, steps=1),
        request_of(spec, 2, steps=12, guidance_scale=10.0, prompt="a ghost"),
        request_of(spec, 3, steps=3, guidance_scale=2.5, negative_prompt="dogs", crop=(8, 16)),
        request_of(spec, 4, steps=20, prompt="three leaves"),
        request_of(spec, 5, steps=6, guidance_scale=4.0, negative_prompt=""),
    ]
    before = ours.transformer.forwards
    mine = draw(ours, requests)
    assert ours.transformer.forwards - before == 20, "one forward a step, whoever is in it"
    for drawn, request in zip(mine, requests, strict=True):
        assert same(drawn, call(oracle, request))


def test_another_size_is_that_of_diffusers(spec: ModelSpec, oracle: Any, ours: MusePipeline) -> None:
    request = request_of(spec, 1, height=SIZE // 2, guidance_scale=10.0)
    assert same(draw(ours, [request])[0], call(oracle, request))


def entry_off(index: int, **values: float) -> Tamper:
    def tamper(row: MuseRow) -> None:
        steps = list(row.steps)
        steps[index] = steps[index]._replace(**values)
        row.steps = tuple(steps)

    return tamper


def step_left_out(row: MuseRow) -> None:
    row.step = 1


TAMPERED: dict[str, Tamper] = {
    "a mask ratio off by 3%": entry_off(2, masked=0.9),
    "a temperature off": entry_off(2, temperature=0.5),
    "a step left out": step_left_out,
    "a guidance off": entry_off(5, guidance=0.5),
}
CHANGED: dict[str, dict[str, Any]] = {
    "seed": {"seed": 3},
    "steps": {"steps": 11},
    "prompt": {"prompt": "a cot"},
    "negative prompt": {"negative_prompt": "blue dogs"},
    "absent negative prompt": {"negative_prompt": None},
    "guidance": {"guidance_scale": 3.5},
    "crop": {"crop": (32, 0)},
}


@pytest.mark.parametrize("what", [*TAMPERED, *CHANGED])
def test_the_comparison_fails_when_one_thing_is_wrong(
    spec: ModelSpec, oracle: Any, ours: MusePipeline, what: str
) -> None:
    right = request_of(spec, 1, guidance_scale=3.0, negative_prompt="red dogs")
    wrong = replace(right, **CHANGED.get(what, {}))
    assert not same(draw(ours, [wrong], TAMPERED.get(what))[0], call(oracle, right))


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("steps", [1, 6, 12])
def test_inpainting_among_others_is_that_of_diffusers(
    spec: ModelSpec, oracle: Any, ours: MusePipeline, steps: int, guidance: str
) -> None:
    """A ring of ten pixels around the middle, which no token's border follows."""
    scheduler = AmusedScheduler.from_config(oracle.scheduler.config)  # its own: it makes it linear
    painter = AmusedInpaintPipeline(**{**oracle.components, "scheduler": scheduler})
    painter.set_progress_bar_config(disable=True)
    image = np.random.default_rng(steps).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    away = np.hypot(*(np.indices((SIZE, SIZE)) - SIZE / 2 + 0.5))
    mask = (away > 9) & (away < 19)
    request = request_of(spec, 5, steps=steps, **GUIDANCE[guidance])

    rows = [ours.prepare(0, request_of(spec, 1, steps=3)), ours.prepare(1, request)]
    inpaint(ours, rows[1], image, mask)
    (_, mine) = finish(ours, rows)
    theirs = [
        painter(
            prompt=request.prompt,
            image=Image.fromarray(image),
            mask_image=Image.fromarray(np.uint8(mask) * 255),
            strength=1.0,
            num_inference_steps=steps,
            guidance_scale=request.guidance_scale,
            negative_prompt=request.negative_prompt,
            generator=torch.Generator().manual_seed(request.seed),
            output_type=kind,
        ).images[0]
        for kind in ("latent", "np")
    ]
    assert same(mine, (theirs[0], (theirs[1] * 255).round()))


# -- served ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["amused-512"], indirect=True)
def test_a_folder_is_served_over_rest(spec: ModelSpec, oracle: Any) -> None:
    """The very pixels of diffusers, guided, among others; and what Muse has not is refused by its name."""
    with (
        serving("--model", spec.source, "--dtype", "float32", "--threads", "1", double=False) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        asked = {"prompt": "a cat", "seed": 7, "negative_prompt": "dogs", "format": "png"}
        answer = http.get("/v1/generate", params=asked)
        assert answer.status_code == 200, answer.text
        drawn = np.asarray(Image.open(io.BytesIO(answer.content)), dtype=np.int16)
        guided = request_of(spec, 7, guidance_scale=10.0, negative_prompt="dogs")
        assert np.abs(drawn - call(oracle, guided)[1]).max() <= BOUND

        batch = http.post("/v1/images/generations", json={"prompt": "a cat", "n": 3, "seed": 7}).json()
        assert [each["seed"] for each in batch["data"]] == [7, 8, 9]

        for values, field in (
            ({"sampler": "euler"}, "sampler"),
            ({"steps": 1000}, "steps"),
            ({"steps": 0}, "steps"),
            ({"guidance_scale": 31}, "guidance_scale"),
            ({"size": "512x512"}, "size"),
        ):
            refused = http.get("/v1/generate", params={"prompt": "a cat", **values})
            assert refused.status_code == 400, field
            assert refused.json()["error"]["param"] == field
        assert "amused" in http.get("/v1/generate", params={"prompt": "a", "sampler": "ddim"}).text


@pytest.mark.parametrize("spec", ["amused-256"], indirect=True)
def test_the_command_line_draws(spec: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    done = CliRunner().invoke(
        cli, ["generate", "a cat", "--model", spec.source, "--seed", "7", "--steps", "3", "-o", str(path)]
    )
    assert done.exit_code == 0, done.output
    assert Image.open(io.BytesIO(path.read_bytes())).size == (SIZE, SIZE)
