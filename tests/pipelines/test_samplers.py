"""Every table is its scheduler, and what is not a table is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onestroke.errors import InvalidRequest, ModelError
from onestroke.pipelines.noise import Noise
from onestroke.pipelines.samplers import (
    SCHEDULERS,
    SamplerTable,
    make_scheduler,
    read_table,
    sampler_table,
    scheduler_key,
)
from tests.pipelines.tiny_models import SCHEDULE

SHAPE = (4, 8, 8)


def table_of(
    sampler: str, steps: int, timesteps: tuple[int, ...] | None = None, **config: Any
) -> SamplerTable:
    return sampler_table(scheduler_key({**SCHEDULE, **config}), sampler, steps, timesteps)


def output(i: int) -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(100 + i))


def walk_table(table: SamplerTable, seed: int) -> list[torch.Tensor]:
    """Latents after each step (and the scaled input before it) with made-up network outputs."""
    noise = Noise(seed, SHAPE)
    x = noise.draw()[None] * table.start
    seen = []
    held = torch.zeros_like(x)
    for i, step in enumerate(table.steps):
        seen.append(x * step.d)
        preview = step.g * x + step.h * output(i)
        x = step.a * x + step.b * output(i) + step.m * held
        held = preview
        if step.c:
            x = x + step.c * noise.draw()
        seen += [x, preview]
    return seen


def walk_scheduler(scheduler: Any, seed: int) -> list[torch.Tensor]:
    generators = [torch.Generator().manual_seed(seed)]
    scheduler.set_begin_index(0) if hasattr(scheduler, "set_begin_index") else None
    x = (
        diffusers.utils.torch_utils.randn_tensor((1, *SHAPE), generator=generators)
        * scheduler.init_noise_sigma
    )
    seen = []
    for i, t in enumerate(scheduler.timesteps):
        seen.append(scheduler.scale_model_input(x, t))
        extra = (
            {"eta": 0.0} if "DDIM" in type(scheduler).__name__ or "TCD" in type(scheduler).__name__ else {}
        )
        x, *preview = scheduler.step(output(i), t, x, generator=generators, return_dict=False, **extra)
        seen += [x, *(preview or scheduler.model_outputs[-1:])]
    return seen


def scheduler_of(sampler: str, steps: int, timesteps: list[int] | None = None, **config: Any) -> Any:
    config = {**SCHEDULE, **config}
    if sampler == "ddim":
        config["clip_sample"] = False
    kind = getattr(diffusers, SCHEDULERS[sampler])
    scheduler = kind.from_config(config)
    scheduler.set_timesteps(steps) if timesteps is None else scheduler.set_timesteps(timesteps=timesteps)
    return scheduler


def assert_same_walk(table: SamplerTable, scheduler: Any, seed: int = 7) -> None:
    assert [step.t for step in table.steps] == [float(t) for t in scheduler.timesteps]
    ours, theirs = walk_table(table, seed), walk_scheduler(scheduler, seed)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sampler", sorted(SCHEDULERS))
def test_a_table_walks_as_its_scheduler_does(sampler: str, prediction: str, spacing: str, steps: int) -> None:
    config = {"prediction_type": prediction, "timestep_spacing": spacing}
    if sampler == "euler_ancestral" and prediction == "sample":
        with pytest.raises(InvalidRequest, match=r"EulerAncestral.*sample.*leave it out"):
            table_of(sampler, steps, **config)
        return
    assert_same_walk(table_of(sampler, steps, **config), scheduler_of(sampler, steps, **config))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_karras_steps_end_at_sigma_min(sampler: str, steps: int) -> None:
    """As the embedded model takes them, down to a noise level of its own."""
    config = {"prediction_type": "sample", "use_karras_sigmas": True, "sigma_min": 1.6}
    table = table_of(sampler, steps, **config)
    assert_same_walk(table, scheduler_of(sampler, steps, **config))
    if steps > 1:
        assert table.steps[-1].t == pytest.approx(497, abs=1)


@settings(max_examples=40, deadline=None)
@given(
    sampler=st.sampled_from(["euler", "lcm", "tcd"]),
    timesteps=st.sets(st.integers(0, 999), min_size=1, max_size=6),
    seed=st.integers(0, 2**53 - 1),
)
def test_custom_timesteps_walk_as_their_scheduler_does(sampler: str, timesteps: set[int], seed: int) -> None:
    falling = sorted(timesteps, reverse=True)
    table = table_of(sampler, len(falling), tuple(falling), prediction_type="epsilon")
    assert_same_walk(table, scheduler_of(sampler, len(falling), falling, prediction_type="epsilon"), seed)


def test_the_published_coefficients_of_one_trailing_ancestral_step() -> None:
    table = table_of("euler_ancestral", 1, prediction_type="epsilon")
    (step,) = table.steps
    assert (step.t, step.a, step.c) == (999.0, 1.0, 0.0)
    assert step.b == pytest.approx(-14.6146, abs=1e-3)
    assert step.d == pytest.approx(0.0683, abs=1e-4)
    assert table.start == pytest.approx(14.6146, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_turbo_visits_its_published_timesteps(steps: int) -> None:
    published = {1: [999], 2: [999, 499], 4: [999, 749, 499, 249]}
    assert [step.t for step in table_of("euler_ancestral", steps).steps] == published[steps]


def test_tables_are_cached_by_what_they_are_made_of() -> None:
    assert table_of("euler", 4) is table_of("euler", 4)
    assert table_of("euler", 4) is not table_of("euler", 4, prediction_type="v_prediction")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("UniPCMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("DPMSolverMultistepScheduler", {"thresholding": True}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("HeunDiscreteScheduler", {}),
        ("PNDMScheduler", {}),
        ("DDIMScheduler", {"clip_sample": True}),
        ("DDIMScheduler", {"clip_sample": False, "thresholding": True}),
        ("LCMScheduler", {"clip_sample": True}),
    ],
)
def test_what_is_not_linear_is_refused_by_name(kind: str, options: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, kind)(**options)
    scheduler.set_timesteps(8)
    with pytest.raises(ModelError, match=kind):
        read_table(scheduler)


def test_a_model_that_asks_for_clipping_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="linear") as refused:
        table_of("ddim", 4, clip_sample=True)
    assert refused.value.field == "sampler"


@pytest.mark.parametrize(
    ("sampler", "steps", "timesteps", "field"),
    [
        ("heun", 4, None, "sampler"),
        ("euler", 0, None, "steps"),
        ("lcm", 51, None, "steps"),
        ("ddim", 1001, None, "steps"),
        ("ddim", 2, (999, 499), "timesteps"),
        ("euler_ancestral", 1, (399,), "timesteps"),
        ("euler", 3, (999, 499), "timesteps"),
        ("euler", 2, (499, 999), "timesteps"),
        ("euler", 1, (1000,), "timesteps"),
        ("lcm", 2, (399, 399), "timesteps"),
    ],
)
def test_a_request_that_cannot_be_sampled_names_its_field(
    sampler: str, steps: int, timesteps: tuple[int, ...] | None, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        table_of(sampler, steps, timesteps)
    assert refused.value.field == field


@pytest.mark.parametrize("entry", [field.name for field in dataclasses.fields(table_of("lcm", 2).steps[0])])
def test_a_table_with_one_entry_off_by_a_percent_does_not_pass(entry: str) -> None:
    config = {"prediction_type": "epsilon"}
    sampler, at = ("dpmpp_2m", 1) if entry == "m" else ("lcm", 0)
    table = table_of(sampler, 4, **config)
    steps = list(table.steps)
    steps[at] = dataclasses.replace(steps[at], **{entry: getattr(steps[at], entry) * 1.01})
    with pytest.raises(AssertionError):
        assert_same_walk(dataclasses.replace(table, steps=tuple(steps)), scheduler_of(sampler, 4, **config))


def test_a_two_step_solver_holds_the_last_preview_between_its_first_step_and_its_last() -> None:
    held = [step.m != 0 for step in table_of("dpmpp_2m", 5, prediction_type="epsilon").steps]
    assert held == [False, True, True, True, False]


def test_the_models_own_schedule_is_kept_when_the_sampler_changes() -> None:
    made = make_scheduler({**SCHEDULE, "prediction_type": "v_prediction"}, "ddim")
    assert made.config.beta_end == SCHEDULE["beta_end"]
    assert made.config.prediction_type == "v_prediction"
    assert made.config.clip_sample is False
