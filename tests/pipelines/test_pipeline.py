"""The verbs: rows in any company are the rows they are alone, and bad rows fail alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from onestroke.core import MAX_SEED, GenerationRequest
from onestroke.errors import GenerationFailed, InvalidRequest
from onestroke.pipelines.noise import Noise
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.rows import Row
from onestroke.pipelines.warmup import fastest_decode
from tests.pipelines.tiny_models import SIZE

Ask = Callable[..., GenerationRequest]


def prepare(pipeline: Pipeline, requests: Sequence[GenerationRequest]) -> list[Row]:
    rows = [pipeline.prepare(i, request) for i, request in enumerate(requests)]
    pipeline.encode(rows)
    return rows


def after_steps(pipeline: Pipeline, rows: list[Row], steps: int = 1) -> list[torch.Tensor]:
    for _ in range(steps):
        assert not pipeline.step(rows).failed
    return [row.latents for row in rows]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_row_is_the_same_to_the_bit_whatever_its_neighbours_and_its_place(
    pipeline: Pipeline, ask: Ask
) -> None:
    """Buckets of 4, 6 and 8, every place, neighbours that differ in everything; some are padded."""
    me = ask("me", seed=5, steps=3, sampler="lcm")
    others = [
        ask("you", seed=6, steps=4, sampler="ddim"),
        ask("they", seed=7, steps=2, sampler="euler"),
        ask("", seed=8),
        ask("a longer text", seed=9, steps=5, sampler="euler", guidance_scale=4, negative_prompt="me"),
        ask("you", seed=10, steps=2),
        ask("they", seed=11, steps=7),
    ]
    for company in (others[:2], others[:4], others[:6], others[3:5]):
        bucket = pipeline.denoiser.bucket(sum(request.unet_rows for request in (me, *company)))
        expected = after_steps(pipeline, prepare(pipeline, [me] * bucket))[0]
        for place in range(len(company) + 1):
            rows = prepare(pipeline, [*company[:place], me, *company[place:]])
            assert torch.equal(after_steps(pipeline, rows)[place], expected)


def test_a_guided_row_is_the_same_to_the_bit_whatever_its_neighbours_and_its_place(
    pipeline: Pipeline, ask: Ask
) -> None:
    me = ask("me", seed=5, guidance_scale=3.0, negative_prompt="you")
    other = ask("they", seed=6, steps=4, sampler="ddim", guidance_scale=7.0)
    single = ask("they", seed=6, steps=4, sampler="lcm")
    expected = after_steps(pipeline, prepare(pipeline, [me, me]))[0]
    for company, place in (([me, other], 0), ([other, me], 1), ([single, me], 1), ([me, single], 0)):
        assert torch.equal(after_steps(pipeline, prepare(pipeline, company))[place], expected)


def test_a_picture_is_the_same_to_the_bit_whatever_its_neighbours_and_its_place(
    pipeline: Pipeline, ask: Ask
) -> None:
    rows = prepare(pipeline, [ask(str(i), seed=i) for i in range(4)])
    pipeline.step(rows)
    for n in (1, 2, 4):
        latents = torch.stack([rows[0].latents] * n)
        expected = pipeline.decoder(latents)[0][0]
        for place in range(n):
            company = [row.latents for row in rows[1:n]]
            company.insert(place, rows[0].latents)
            assert np.array_equal(pipeline.decoder(torch.stack(company))[0][place], expected)


def test_rows_at_different_steps_of_different_samplers_share_one_forward(
    pipeline32: Pipeline, ask: Ask
) -> None:
    requests = [
        ask(sampler, seed=i, steps=2 + i, sampler=sampler) for i, sampler in enumerate(("euler", "lcm"))
    ]
    requests.append(ask("third", steps=3, sampler="ddim", guidance_scale=2.0))
    rows = prepare(pipeline32, requests)
    pipeline32.step(rows[:1])
    calls: list[tuple[int, ...]] = []
    hook = pipeline32.denoiser.unet.register_forward_pre_hook(
        lambda module, args: calls.append(tuple(args[0].shape))
    )
    assert [row.id for row in pipeline32.step(rows).finished] == [0]
    hook.remove()
    assert calls == [(4, 4, SIZE // 4, SIZE // 4)]
    assert [row.step for row in rows] == [2, 1, 1]


def test_a_row_that_is_not_finite_fails_alone(pipeline32: Pipeline, ask: Ask) -> None:
    rows = prepare(pipeline32, [ask(str(i), seed=i, steps=2) for i in range(4)])
    healthy = after_steps(pipeline32, prepare(pipeline32, [row.request for row in rows]))
    rows[1].latents = torch.full_like(rows[1].latents, float("nan"))
    result = pipeline32.step(rows)
    assert [row.id for row in result.failed] == [1]
    assert isinstance(rows[1].error, GenerationFailed)
    for i in (0, 2, 3):
        assert torch.equal(rows[i].latents, healthy[i])
        assert rows[i].error is None


def test_a_finished_row_is_reported_once_with_its_last_step(pipeline32: Pipeline, ask: Ask) -> None:
    (row,) = prepare(pipeline32, [ask(steps=3)])
    finished = [pipeline32.step([row]).finished for _ in range(3)]
    assert finished == [[], [], [row]]
    assert row.finished


def test_pictures_leave_in_sub_batches_in_order(pipeline32: Pipeline, ask: Ask) -> None:
    rows = prepare(pipeline32, [ask(seed=i) for i in range(7)])
    pipeline32.step(rows)
    pipeline32.decoder.batch = 4
    parts = list(pipeline32.decode(rows))
    pipeline32.decoder.batch = 1
    assert [len(batch) for batch, _ in parts] == [4, 2, 1]
    assert [row.id for batch, _ in parts for row in batch] == list(range(7))
    for batch, pictures in parts:
        assert len(batch) == len(pictures)
        assert {(picture.shape, picture.dtype.name) for picture in pictures} == {((SIZE, SIZE, 3), "uint8")}


def test_a_picture_that_is_not_finite_fails_alone(
    pipeline32: Pipeline, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = prepare(pipeline32, [ask(seed=i) for i in range(4)])
    pipeline32.step(rows)
    healthy = pipeline32.decoder._centred

    def overflowing(latents: torch.Tensor) -> torch.Tensor:
        centred = healthy(latents).clone()
        centred[2, 0, 0, 0] = float("inf")
        return centred

    monkeypatch.setattr(pipeline32.decoder, "_centred", overflowing)
    monkeypatch.setattr(pipeline32.decoder, "batch", 4)
    drawn = [
        row.id for batch, pictures in pipeline32.decode(rows) for row, _ in zip(batch, pictures, strict=True)
    ]
    assert drawn == [0, 1, 3]
    assert isinstance(rows[2].error, GenerationFailed)


def test_a_size_other_than_the_default_is_drawn(pipeline32: Pipeline, ask: Ask) -> None:
    rows = prepare(pipeline32, [ask(height=SIZE // 2)])
    pipeline32.step(rows)
    ((_, (picture,)),) = pipeline32.decode(rows)
    assert picture.shape == (SIZE // 2, SIZE, 3)


def test_an_absent_negative_prompt_is_zero_and_an_empty_one_is_encoded(
    pipeline32: Pipeline, ask: Ask
) -> None:
    absent, empty, unguided = prepare(
        pipeline32,
        [ask(guidance_scale=2.0), ask(guidance_scale=2.0, negative_prompt=""), ask(negative_prompt="x")],
    )
    assert absent.negative is not None
    assert absent.negative.hidden.abs().max() == absent.negative.pooled.abs().max() == 0
    assert empty.negative is not None
    assert empty.negative.hidden.abs().max() > 0
    assert unguided.negative is None


def test_more_unet_rows_than_the_largest_bucket_are_refused(pipeline32: Pipeline, ask: Ask) -> None:
    rows = prepare(pipeline32, [ask(seed=i, guidance_scale=2.0) for i in range(5)])
    with pytest.raises(ValueError, match="10 rows"):
        pipeline32.step(rows)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("sampler", {"sampler": "dpm++"}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": 51}),
        ("timesteps", {"timesteps": (399,)}),
        ("timesteps", {"sampler": "lcm", "timesteps": (399, 299)}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": MAX_SEED}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("guidance_scale", {"guidance_scale": float("inf")}),
        ("guidance_scale", {"guidance_scale": -1.0}),
        ("width", {"width": 65}),
        ("height", {"height": 128}),
        ("quality", {"quality": 0}),
    ],
)
def test_a_request_that_cannot_be_drawn_names_its_field(
    pipeline32: Pipeline, ask: Ask, field: str, values: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        pipeline32.prepare(0, replace(ask(), **values))  # type: ignore[arg-type]
    assert refused.value.field == field


def test_a_truncated_prompt_is_drawn_and_said_to_be_truncated(pipeline32: Pipeline, ask: Ask) -> None:
    long, short = prepare(pipeline32, [ask("x" * 100), ask("x")])
    assert long.truncated
    assert not short.truncated
    assert not pipeline32.step([long]).failed


def test_noise_is_the_seeds_alone_and_as_diffusers_draws_it() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    generators = [torch.Generator().manual_seed(seed) for seed in (3, 2**53 - 1)]
    rows = [Noise(seed, (4, 3, 5)) for seed in (3, 2**53 - 1)]
    for _ in range(3):
        expected = randn_tensor((2, 4, 3, 5), generator=generators, dtype=torch.float32)
        assert torch.equal(torch.stack([row.draw() for row in rows]), expected)


def test_warming_up_times_every_verb_in_every_bucket_and_leaves_no_trace(pipeline32: Pipeline) -> None:
    told: list[tuple[str, float]] = []
    samples = pipeline32.warm_up(lambda stage, fraction: told.append((stage, fraction)))
    assert {(verb, n) for verb, n, *_ in samples} == {
        ("encode", pipeline32.text.bucket),
        *(("step", n) for n in (1, 2, 4, 8)),
        *(("decode", n) for n in (1, 2, 4)),
    }
    assert all(sample.seconds > 0 for sample in samples)
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)
    assert told[-1][1] == 1.0
    assert pipeline32.decoder.batch in (1, 2, 4)
    assert len(pipeline32.text.cache) == 1


def test_a_larger_decode_batch_must_pay() -> None:
    def chosen(*seconds: float) -> int:
        return fastest_decode(dict(zip((1, 2, 4), seconds, strict=True)))

    assert chosen(1.0, 2.0, 4.0) == 1
    assert chosen(1.0, 1.96, 3.9) == 1
    assert chosen(1.0, 1.8, 3.5) == 2
    assert chosen(1.0, 1.8, 2.0) == 4
