"""Pipelines drawn whole, against diffusers' own call with a CPU generator; rows of a batch against rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from onestroke.core import GenerationRequest
from onestroke.errors import InvalidRequest, ModelError
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.generic.pipeline import WholePipeline
from onestroke.pipelines.images import Pixels
from tests.pipelines.generic.conftest import whole
from tests.pipelines.generic.tiny_pipelines import SIDE

Ask = Callable[..., GenerationRequest]
BOUND = 1
"""Of 255: how far a row of a batch may be from the row alone, and from diffusers' picture."""


def drawn(pipeline: WholePipeline, *requests: GenerationRequest) -> list[Pixels]:
    rows = [pipeline.prepare(i, request) for i, request in enumerate(requests)]
    pipeline.encode(rows)
    assert not pipeline.step(rows).failed
    ((done, pictures),) = pipeline.decode(rows)
    assert done == rows
    return pictures


def difference(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other).max())


def oracle(spec: ModelSpec, request: GenerationRequest, **extra: Any) -> Pixels:
    """What diffusers draws from the same folder: its own loading, its own call, one picture."""
    pipeline = DiffusionPipeline.from_pretrained(spec.source)
    pipeline.set_progress_bar_config(disable=True)
    if spec.pipeline == "SanaSprintPipeline" and request.steps != 2:
        extra["intermediate_timesteps"] = None
    return np.asarray(
        pipeline(
            prompt=request.prompt,
            generator=torch.Generator().manual_seed(request.seed),
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            **dict(spec.call),
            **extra,
        ).images[0]
    )


def test_a_picture_is_the_one_that_diffusers_draws(pipeline: WholePipeline, ask: Ask) -> None:
    """At the row's own steps and guidance and at others; and not when anything else is asked for."""
    spec = pipeline.spec
    for request in (ask(spec), ask(spec, "a red fox", 7, steps=1, height=SIDE // 2)):
        (picture,) = drawn(pipeline, request)
        assert picture.shape == (request.height, request.width, 3)
        assert picture.std() > 20
        assert difference(picture, oracle(spec, request)) <= BOUND
    (picture,) = drawn(pipeline, ask(spec))
    for other in (ask(spec, seed=2), ask(spec, "a dog"), ask(spec, steps=spec.default_steps - 1)):
        assert difference(picture, oracle(spec, other)) > 10 * BOUND


def test_a_row_of_a_batch_is_the_row_alone(pipeline: WholePipeline, ask: Ask) -> None:
    """Prompts of different lengths, seeds of each row's own, any place in the batch."""
    spec, calls = pipeline.spec, pipeline.calls
    requests = [ask(spec, prompt, seed) for seed, prompt in enumerate(("a cat", "a red fox on a hill", "x"))]
    together = drawn(pipeline, *requests)
    assert pipeline.calls == calls + 1
    turned = drawn(pipeline, *reversed(requests))[::-1]
    for request, picture, other in zip(requests, together, turned, strict=True):
        (alone,) = drawn(pipeline, request)
        assert difference(picture, alone) <= BOUND
        assert difference(other, alone) <= BOUND


def test_guidance_and_negative_prompts_go_where_the_pipeline_takes_them(
    pipelines: dict[str, WholePipeline], ask: Ask
) -> None:
    pipeline = pipelines["z-image-turbo"]
    spec = pipeline.spec
    plain = ask(spec, steps=2, guidance_scale=4.0)
    negative = ask(spec, steps=2, guidance_scale=4.0, negative_prompt="a red fox", seed=3)
    for request, picture in zip((plain, negative), drawn(pipeline, plain, negative), strict=True):
        expected = oracle(spec, request, negative_prompt=request.negative_prompt)
        assert difference(picture, expected) <= BOUND
    assert difference(drawn(pipeline, negative)[0], oracle(spec, negative)) > 10 * BOUND
    assert difference(drawn(pipeline, plain)[0], drawn(pipeline, ask(spec, steps=2))[0]) > 10 * BOUND


def test_embedded_guidance_reaches_sana(pipelines: dict[str, WholePipeline], ask: Ask) -> None:
    pipeline = pipelines["sana-sprint"]
    request = ask(pipeline.spec, guidance_scale=30.0)
    (picture,) = drawn(pipeline, request)
    assert difference(picture, oracle(pipeline.spec, request)) <= BOUND
    assert difference(picture, drawn(pipeline, ask(pipeline.spec))[0]) > 0


@pytest.mark.parametrize("name", ["sana-sprint", "flux1-schnell", "flux2-klein"])
def test_a_negative_prompt_that_would_do_nothing_is_refused(
    pipelines: dict[str, WholePipeline], ask: Ask, name: str
) -> None:
    pipeline = pipelines[name]
    with pytest.raises(InvalidRequest, match="takes no negative prompt") as refused:
        pipeline.prepare(1, ask(pipeline.spec, guidance_scale=5.0, negative_prompt="fog"))
    assert refused.value.field == "negative_prompt"


@pytest.mark.parametrize(
    ("values", "field"), [({"sampler": "ddim"}, "sampler"), ({"width": 72}, "width"), ({"steps": 0}, "steps")]
)
def test_what_it_cannot_draw_is_refused_by_name(
    pipelines: dict[str, WholePipeline], ask: Ask, values: dict[str, Any], field: str
) -> None:
    pipeline = pipelines["flux1-schnell"]
    with pytest.raises(InvalidRequest) as refused:
        pipeline.prepare(1, ask(pipeline.spec, **values))
    assert refused.value.field == field


def test_a_prompt_that_is_too_long_is_drawn_and_said_to_be_cut(pipeline: WholePipeline, ask: Ask) -> None:
    short, long = (pipeline.prepare(i, ask(pipeline.spec, "fox" * n)) for i, n in enumerate((2, 30)))
    pipeline.encode([short, long])
    assert (short.truncated, long.truncated) == (False, True)


def test_the_warm_up_times_calls_of_every_size(specs: dict[str, ModelSpec]) -> None:
    pipeline = whole(specs["flux1-schnell"])
    said: list[float] = []
    samples = pipeline.warm_up(lambda stage, fraction: said.append(fraction))
    assert [(sample.verb, sample.n) for sample in samples] == [("step", 1), ("step", 2), ("step", 4)]
    assert pipeline.calls == 4
    assert said == sorted(said)
    assert said[-1] == 1.0
    assert pipeline.notes() == ["float32, eager, FluxPipeline: 4 pictures a call at most"]


def test_where_memory_ends_larger_passes_are_several_calls(
    specs: dict[str, ModelSpec], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = whole(specs["flux1-schnell"])
    draw = type(pipeline._pipeline).__call__

    def short_of_memory(self: Any, **arguments: Any) -> Any:
        if len(arguments["prompt"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return draw(self, **arguments)

    monkeypatch.setattr(type(pipeline._pipeline), "__call__", short_of_memory)
    pipeline.warm_up()
    assert pipeline.max_batch == 2
    calls = pipeline.calls
    requests = [ask(pipeline.spec, seed=seed) for seed in range(3)]
    pictures = drawn(pipeline, *requests)
    assert pipeline.calls == calls + 2
    assert difference(pictures[2], drawn(pipeline, requests[2])[0]) <= BOUND


def test_a_picture_that_is_not_finite_fails_alone(
    specs: dict[str, ModelSpec], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = whole(specs["flux1-schnell"])
    decode = pipeline._pipeline.vae.decode

    def spoilt(latents: torch.Tensor, **options: Any) -> Any:
        (picture,) = decode(latents, **options)
        picture[0] = torch.nan
        return (picture,)

    rows = [pipeline.prepare(i, ask(pipeline.spec, seed=i)) for i in range(2)]
    monkeypatch.setattr(pipeline._pipeline.vae, "decode", spoilt)
    assert pipeline.step(rows).failed == rows[:1]
    ((done, _),) = pipeline.decode(rows)
    assert done == rows[1:]
    with pytest.raises(ModelError, match="draws no picture: its picture is not finite"):
        pipeline.warm_up()
