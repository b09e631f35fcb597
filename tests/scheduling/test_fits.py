from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onestroke.core import FitKey
from onestroke.scheduling.fits import Fits, FitTable, Line
from onestroke.workers.messages import Sample
from tests.doubles import request


def test_a_line_is_found_again() -> None:
    line = Line()
    for n in (1, 2, 4, 8):
        line.observe(n, 0.02 + 0.004 * n)
    assert line.predict(6) == pytest.approx(0.044)


def test_one_size_alone_gives_a_proportional_cost() -> None:
    line = Line()
    line.observe(2, 0.1)
    assert line.predict(2) == pytest.approx(0.1)
    assert line.predict(4) == pytest.approx(0.2)


def test_noise_over_batches_alike_leaves_the_known_shape() -> None:
    """A crowd fills every pass, and jitter hides what one costs at least: larger passes stay worth their time."""
    fits = Fits()
    for n in (1, 2, 4, 8):
        fits.observe("step", n, 0.02 + 0.004 * n)
    for _ in range(50):
        fits.observe("step", 7, 0.04)
        fits.observe("step", 8, 0.06)
    assert fits.predict(step=8) == pytest.approx(0.053, abs=0.01)
    assert fits.knee(8) > 1.5 * fits.one_step(1)


def test_no_rows_cost_nothing() -> None:
    line = Line()
    line.observe(1, 0.5)
    assert line.predict(0) == 0.0


def test_a_slower_machine_is_noticed_within_the_window() -> None:
    line = Line()
    for _ in range(10):
        for n in (1, 4):
            line.observe(n, 0.01 * n)
    for _ in range(25):
        for n in (1, 4):
            line.observe(n, 0.02 * n)
    assert line.predict(4) == pytest.approx(0.08)


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(1e-5, 10)), min_size=1, max_size=60))
def test_a_prediction_is_never_negative_and_never_falls_with_more_rows(
    points: list[tuple[int, float]],
) -> None:
    line = Line()
    for n, seconds in points:
        line.observe(n, seconds)
    predictions = [line.predict(n) for n in range(1, 33)]
    assert all(p >= 0 for p in predictions)
    assert predictions == sorted(predictions)


def test_the_knee_is_where_more_rows_buy_little() -> None:
    fits = Fits()
    for n in (1, 2, 4, 8, 16):
        fits.observe("step", n, 0.020 + 0.001 * n)
    assert fits.knee(16) > 0.03, "a large fixed cost is worth spreading"
    flat = Fits()
    for n in (1, 2, 4, 8, 16):
        flat.observe("step", n, 0.001 * n)
    assert flat.knee(16) == pytest.approx(0.001), "without a fixed cost one row is as good as many"


def test_unknown_verbs_cost_nothing_until_seen() -> None:
    assert Fits().predict(encode=3, step=3, decode=3) == 0.0
    assert Fits().knee(8) == 0.0


def test_models_are_fitted_apart() -> None:
    table = FitTable()
    table.observe([Sample(FitKey("embedded"), "step", 1, 0.01), Sample(FitKey("other"), "step", 1, 2.0)])
    assert table.of(request()).predict(step=1) == pytest.approx(0.01)
    assert table.of(request(model="other")).predict(step=1) == pytest.approx(2.0)
    assert table.of(request(model="new")).predict(step=1) == 0.0


def test_what_a_controlnet_adds_is_fitted_apart_from_what_a_step_costs() -> None:
    fits = Fits()
    for n in (1, 2, 4, 8):
        fits.observe("step", n, 0.020 + 0.001 * n)
    for n, steered in ((4, 1), (8, 2), (8, 4), (4, 4)):
        fits.observe("step", n, 0.020 + 0.001 * n + 0.010 + 0.002 * steered, steered)
    assert fits.predict(step=6) == pytest.approx(0.026)
    assert fits.predict(step=6, control=3) == pytest.approx(0.042)
    assert fits.work(4, 2, 8, steered=2) == pytest.approx(fits.work(4, 2, 8) + 4 * 2 * 0.026 / 8)
    fits.observe("step", 8, 0.001, 8)
    assert fits.predict(control=8) >= 0, "a step that was luckily short takes nothing off"


def test_of_a_model_that_draws_in_one_call_other_step_counts_are_taken_in_proportion() -> None:
    table, asked = FitTable(), request(model="whole", whole=True)
    assert table.of(asked).predict(step=1) == 0.0
    table.observe([Sample(FitKey("whole", 4), "step", n, 1.0 + n) for n in (1, 2)])

    def one(**changes: Any) -> float:
        return table.of(replace(asked, **changes)).predict(step=1)

    assert one(steps=4) == pytest.approx(2.0)
    assert one(steps=8) == pytest.approx(4.0)
    assert one(steps=4, guidance_scale=5.0) == pytest.approx(4.0)
    table.observe([Sample(FitKey("whole", 8), "step", 1, 3.0)])
    assert one(steps=8) == pytest.approx(3.0)
