"""Muse's verbs: rows in any company are the rows they are alone, and bad rows fail alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from onestroke.core import GenerationRequest
from onestroke.errors import GenerationFailed, InvalidRequest
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.muse import pipeline as muse_pipeline
from onestroke.pipelines.muse.pipeline import MusePipeline, MuseRow
from tests.pipelines.muse.conftest import muse
from tests.pipelines.tiny_models import SIZE

Ask = Callable[..., GenerationRequest]


def prepare(pipeline: MusePipeline, requests: Sequence[GenerationRequest]) -> list[MuseRow]:
    rows = [pipeline.prepare(i, request) for i, request in enumerate(requests)]
    pipeline.encode(rows)
    return rows


def after_steps(pipeline: MusePipeline, rows: list[MuseRow], steps: int = 1) -> list[torch.Tensor]:
    for _ in range(steps):
        assert not pipeline.step(rows).failed
    return [row.tokens for row in rows]


def test_a_row_is_the_same_to_the_bit_whatever_its_neighbours_and_its_place(
    pipeline: MusePipeline, ask: Ask
) -> None:
    """Tokens are whole numbers: the same to the bit is the same."""
    me = ask("me", seed=5, steps=3, guidance_scale=6.0, negative_prompt="you")
    others = [
        ask("you", seed=6, steps=12),
        ask("they", seed=7, steps=2, guidance_scale=2.0),
        ask("", seed=8, steps=50),
        ask("me", seed=9),
    ]
    for company in (others[:2], others):
        bucket = pipeline.transformer.bucket(sum(request.unet_rows for request in (me, *company)))
        expected = after_steps(pipeline, prepare(pipeline, [me] * (bucket // 2)), 2)[0]
        for place in range(len(company) + 1):
            rows = prepare(pipeline, [*company[:place], me, *company[place:]])
            assert torch.equal(after_steps(pipeline, rows, 2)[place], expected)


def test_rows_at_different_steps_share_one_forward(pipeline32: MusePipeline, ask: Ask) -> None:
    rows = prepare(pipeline32, [ask(steps=2), ask(steps=9), ask(steps=5, guidance_scale=10.0)])
    pipeline32.step(rows[:1])
    before = pipeline32.transformer.forwards
    assert [row.id for row in pipeline32.step(rows).finished] == [0]
    assert pipeline32.transformer.forwards - before == 1
    assert [row.step for row in rows] == [2, 1, 1]


def test_a_ramp_guides_by_the_text_alone_at_first_and_fully_at_last(spec: ModelSpec, ask: Ask) -> None:
    ramped = muse(replace(spec, scheduler=(("guidance_schedule", "linear"),)), "float32")
    plain = muse(spec, "float32")
    guided, unguided = ask(guidance_scale=8.0, steps=2), ask(steps=2)
    (row,), (other,) = prepare(ramped, [guided]), prepare(plain, [unguided])
    assert torch.equal(after_steps(ramped, [row])[0], after_steps(plain, [other])[0])
    (full,) = prepare(plain, [guided])
    full.tokens, full.step, full.draws = row.tokens, 1, muse_pipeline.Draws(1)
    full.draws.state = row.draws.state
    assert torch.equal(after_steps(ramped, [row])[0], after_steps(plain, [full])[0])


def test_a_row_that_is_not_finite_fails_alone(pipeline32: MusePipeline, ask: Ask) -> None:
    rows = prepare(pipeline32, [ask(str(i), seed=i, steps=2) for i in range(4)])
    healthy = after_steps(pipeline32, prepare(pipeline32, [row.request for row in rows]))
    embedding = rows[1].embedding
    assert embedding is not None
    rows[1].embedding = embedding._replace(hidden=torch.full_like(embedding.hidden, float("nan")))
    assert [row.id for row in pipeline32.step(rows).failed] == [1]
    assert isinstance(rows[1].error, GenerationFailed)
    for i in (0, 2, 3):
        assert torch.equal(rows[i].tokens, healthy[i])
        assert rows[i].error is None


def test_a_step_that_raises_leaves_its_rows_as_they_were(
    pipeline32: MusePipeline, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = after_steps(pipeline32, prepare(pipeline32, [ask()]))
    rows = prepare(pipeline32, [ask()])
    unmask = muse_pipeline.unmask

    def out_of_memory(*values: Any) -> torch.Tensor:
        unmask(*values)
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(muse_pipeline, "unmask", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        pipeline32.step(rows)
    monkeypatch.undo()
    assert torch.equal(after_steps(pipeline32, rows)[0], expected)


def test_pictures_leave_in_sub_batches_in_order_and_the_same_as_alone(
    pipeline: MusePipeline, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prepare(pipeline, [ask(seed=i, steps=1, height=SIZE // 2) for i in range(7)])
    pipeline.step(rows)
    monkeypatch.setattr(pipeline, "decode_batch", 4)
    parts = list(pipeline.decode(rows))
    assert [[row.id for row in batch] for batch, _ in parts] == [[0, 1, 2, 3], [4, 5], [6]]
    pictures = [picture for _, drawn in parts for picture in drawn]
    assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((SIZE // 2, SIZE, 3), "uint8")}
    _, (same, *_) = next(pipeline.decode([rows[0], *rows[4:7]]))
    assert np.array_equal(pictures[0], same)


def test_a_picture_that_is_not_finite_fails_alone(
    pipeline32: MusePipeline, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prepare(pipeline32, [ask(seed=i, steps=1) for i in range(3)])
    pipeline32.step(rows)
    decode = pipeline32.codec.decode

    def overflowing(tokens: torch.Tensor) -> Any:
        pixels, finite = decode(tokens)
        return pixels, [
            good and not torch.equal(each, rows[1].tokens) for good, each in zip(finite, tokens, strict=True)
        ]

    monkeypatch.setattr(pipeline32.codec, "decode", overflowing)
    assert [row.id for batch, _ in pipeline32.decode(rows) for row in batch] == [0, 2]
    assert isinstance(rows[1].error, GenerationFailed)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"sampler": "euler"}, "sampler"),
        ({"steps": 0}, "steps"),
        ({"steps": 1000}, "steps"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"timesteps": (3, 2, 1, 0)}, "timesteps"),
        ({"width": 8 * SIZE}, "width"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_drawn_names_its_field(
    pipeline32: MusePipeline, ask: Ask, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        pipeline32.prepare(0, ask(**values))
    assert refused.value.field == field


def test_guidance_needs_room_for_two_rows(spec: ModelSpec, ask: Ask) -> None:
    from onestroke.pipelines.loading import load

    with pytest.raises(InvalidRequest, match="two rows") as refused:
        load(spec, device="cpu", dtype="float32", max_batch=1).prepare(0, ask(guidance_scale=2.0))
    assert refused.value.field == "guidance_scale"


def test_an_absent_negative_prompt_is_an_empty_one(pipeline32: MusePipeline, ask: Ask) -> None:
    absent, empty, other = prepare(
        pipeline32, [ask(guidance_scale=5.0, negative_prompt=text) for text in (None, "", "dogs")]
    )
    expected, same, another = after_steps(pipeline32, [absent, empty, other], 4)
    assert torch.equal(expected, same)
    assert not torch.equal(expected, another)


def test_a_long_prompt_is_drawn_and_said_to_be_cut(pipeline32: MusePipeline, ask: Ask) -> None:
    assert pipeline32.prepare(0, ask("a cat " * 20)).truncated
    assert not pipeline32.prepare(0, ask("a cat")).truncated


def test_warming_up_runs_every_verb_in_every_bucket(pipeline32: MusePipeline) -> None:
    told: list[tuple[str, float]] = []
    samples = pipeline32.warm_up(lambda *said: told.append(said))
    timed = [(verb, n) for verb, n, *_ in samples]
    wanted = [("encode", 2), *(("step", n) for n in (1, 2, 4, 8)), *(("decode", n) for n in (1, 2, 4))]
    assert timed == [each for each in wanted for _ in range(3)]
    assert told[-1] == ("warm", 1.0)
    assert pipeline32.decode_batch in (1, 2, 4)
