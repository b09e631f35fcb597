"""Super-resolution: a large picture is drawn small first, then large from it, by the paper's rule written out here.

diffusers has no such stage; its scheduler has the rule of a step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AmusedScheduler

from onestroke.core import GenerationRequest
from onestroke.errors import InvalidRequest, ModelError
from onestroke.models.choosing import resolve
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.loading import load
from onestroke.pipelines.muse.editing import edit, inpaint
from onestroke.pipelines.muse.pipeline import MusePipeline, MuseRow
from onestroke.pipelines.muse.sampling import first_stage
from tests.pipelines.muse.conftest import muse
from tests.pipelines.tiny_models import SIZE, add_super_resolution, save_tiny_muse

LARGE = 2 * SIZE
Ask = Callable[..., GenerationRequest]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return add_super_resolution(save_tiny_muse(tmp_path_factory.mktemp("muse")))


@pytest.fixture(scope="module")
def pipeline(spec: ModelSpec) -> MusePipeline:
    return muse(spec, "float32")


@pytest.fixture(scope="module")
def ask(spec: ModelSpec) -> Ask:
    def make(prompt: str = "a cat", seed: int = 1, **values: Any) -> GenerationRequest:
        values = {"sampler": "amused", "steps": 8, "width": LARGE, "height": LARGE, **values}
        return GenerationRequest(spec.name, prompt, seed, **values)

    return make


def run(pipeline: MusePipeline, rows: list[MuseRow]) -> list[torch.Tensor]:
    pipeline.encode(rows)
    while running := [row for row in rows if not row.finished]:
        assert not pipeline.step(running).failed
    return [row.tokens for row in rows]


@torch.inference_mode()
def plainly(
    pipeline: MusePipeline, request: GenerationRequest, tamper: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The paper's two stages, one picture, one generator; `tamper` is done to the small tokens in between."""
    assert pipeline.enlarger is not None
    generator = torch.Generator().manual_seed(request.seed)
    known = pipeline.text.encode(
        [pipeline.text.tokenize(text) for text in (request.prompt, request.negative_prompt or "")]
    )
    hidden, pooled = (
        torch.stack([getattr(known[text], kind) for text in (request.negative_prompt or "", request.prompt)])
        for kind in ("hidden", "pooled")
    )
    small = None
    for network, edge, steps in (
        (pipeline.transformer.network, SIZE, 6),
        (pipeline.enlarger.network, LARGE, 2),
    ):
        scheduler = AmusedScheduler(pipeline.rule.mask)
        scheduler.set_timesteps(steps, (2, 0))
        tokens = torch.full((1, edge // 4, edge // 4), pipeline.rule.mask)
        for timestep in scheduler.timesteps:
            logits = network(
                tokens.repeat(2, 1, 1),
                encoder_hidden_states=hidden,
                pooled_text_emb=pooled,
                micro_conds=torch.tensor([[edge, edge, 0, 0, 6]] * 2, dtype=torch.float32),
                **({} if small is None else {"small": small.repeat(2, 1, 1)}),
            )
            guided = logits[:1] + request.guidance_scale * (logits[1:] - logits[:1])
            tokens = scheduler.step(guided, timestep, tokens, generator=generator).prev_sample
        torch.rand(tokens.numel(), generator=generator)  # the last step's confidences: diffusers draws none
        small = tamper(tokens)
    return tokens[0]


def untouched(tokens: torch.Tensor) -> torch.Tensor:
    return tokens


def test_a_large_picture_is_the_papers_two_stages_alone_and_among_strangers(
    pipeline: MusePipeline, ask: Ask
) -> None:
    me = ask(seed=3, guidance_scale=4.0, negative_prompt="dogs")
    expected = plainly(pipeline, me, untouched)
    (alone,) = run(pipeline, [pipeline.prepare(0, me)])
    assert torch.equal(alone, expected)
    assert len(expected.unique()) > 10
    strangers = [ask("a dog", seed=7, steps=12), ask("", seed=8, steps=3, guidance_scale=2.0)]
    rows = [pipeline.prepare(i, request) for i, request in enumerate([strangers[0], me, strangers[1]])]
    assert torch.equal(run(pipeline, rows)[1], expected)


@pytest.mark.parametrize("what", ["small tokens", "seed", "prompt", "negative prompt", "steps"])
def test_the_comparison_fails_when_one_thing_is_wrong(pipeline: MusePipeline, ask: Ask, what: str) -> None:
    right = ask(seed=3, guidance_scale=4.0, negative_prompt="dogs")
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": 4},
        "prompt": {"prompt": "a cot"},
        "negative prompt": {"negative_prompt": "dugs"},
        "steps": {"steps": 9},
    }
    (drawn,) = run(pipeline, [pipeline.prepare(0, replace(right, **changes.get(what, {})))])
    tamper = (lambda tokens: tokens.flip(-1)) if what == "small tokens" else untouched
    assert not torch.equal(drawn, plainly(pipeline, right, tamper))


def test_rows_of_either_stage_share_a_pass_and_each_stage_a_forward(pipeline: MusePipeline, ask: Ask) -> None:
    assert pipeline.enlarger is not None
    rows = [pipeline.prepare(i, ask(seed=i)) for i in range(4)]
    pipeline.encode(rows)
    for _ in range(6):
        pipeline.step(rows[:2])
    assert [row.small is not None for row in rows] == [True, True, False, False]
    before = pipeline.transformer.forwards, pipeline.enlarger.forwards
    pipeline.step(rows)
    assert (pipeline.transformer.forwards, pipeline.enlarger.forwards) == (before[0] + 1, before[1] + 1)
    assert [row.step for row in rows] == [7, 7, 1, 1]


def test_a_small_picture_is_the_base_models_alone(pipeline: MusePipeline, ask: Ask) -> None:
    request = ask(width=SIZE, height=SIZE)
    row = pipeline.prepare(0, request)
    assert row.second is None
    (small,) = run(pipeline, [row])
    assert small.shape == (SIZE // 4, SIZE // 4)


@pytest.mark.parametrize(("steps", "first"), [(32, 24), (16, 12), (3, 2), (2, 1), (1, 0)])
def test_a_quarter_of_the_steps_enlarge(steps: int, first: int) -> None:
    assert first_stage(steps) == first


def test_a_single_step_is_refused_by_name(pipeline: MusePipeline, ask: Ask) -> None:
    with pytest.raises(InvalidRequest, match="at least 2 steps") as refused:
        pipeline.prepare(0, ask(steps=1))
    assert refused.value.field == "steps"


def test_inpainting_repaints_both_sizes_and_keeps_the_rest(pipeline: MusePipeline, ask: Ask) -> None:
    image = np.random.default_rng(0).integers(0, 256, (LARGE, LARGE, 3), np.uint8)
    mask = np.arange(LARGE) < LARGE // 2 + np.zeros((LARGE, 1))
    row = pipeline.prepare(0, ask(guidance_scale=3.0))
    inpaint(pipeline, row, image, mask)
    assert row.share == 0.5
    given = pipeline.codec.encode(image)
    half = given.shape[1] // 2
    (drawn,) = run(pipeline, [row])
    assert torch.equal(drawn[:, half:], given[:, half:])
    assert not torch.equal(drawn[:, :half], given[:, :half])
    assert row.small is not None
    shrunk = image.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    near = pipeline.codec.encode(np.uint8(np.round(shrunk)))
    assert (row.small[:, half // 2 :] == near[:, half // 2 :]).float().mean() > 0.95, (
        "halves round either way"
    )


def test_a_mask_free_edit_is_made_small_and_drawn_large(pipeline: MusePipeline, ask: Ask) -> None:
    image = np.random.default_rng(0).integers(0, 256, (LARGE, LARGE, 3), np.uint8)
    row = pipeline.prepare(0, ask())
    edit(pipeline, row, image)
    before = row.tokens
    run(pipeline, [row])
    assert row.small is not None
    assert 0 < (row.small != before).sum() <= 6 * round(0.08 * before.numel())
    assert (row.tokens < pipeline.rule.mask).all()


def test_it_warms_up_both_stages(pipeline: MusePipeline) -> None:
    verbs = [timed.verb for timed in pipeline.warm_up()]
    buckets = len(pipeline.transformer.buckets)
    assert verbs.count("step") == 3 * 2 * buckets


def test_a_folder_says_both_its_sizes(spec: ModelSpec) -> None:
    found = resolve(spec.source)
    assert found.sizes == ((LARGE, LARGE), (SIZE, SIZE))
    assert found.default_steps == 16


def test_a_stage_of_other_tokens_is_refused(tmp_path: Path) -> None:
    copy = add_super_resolution(save_tiny_muse(tmp_path))
    config = tmp_path / "super_resolution" / "config.json"
    weights = next(config.parent.glob("*.safetensors"))
    config.write_text(json.dumps({**json.loads(config.read_text()), "small_size": 4}))
    with pytest.raises(ModelError):
        load(copy, device="cpu")
    weights.unlink()
    with pytest.raises(ModelError, match="super_resolution has no weights"):
        resolve(copy.source)
