"""The arithmetic of the benchmark."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics import (
    SAMPLE,
    Shown,
    Typed,
    fairness,
    median,
    percentile,
    screen_ages,
    typist_figures,
)

FINITE = st.floats(-1e6, 1e6)


@given(st.lists(FINITE, min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-6)


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert median([4, 1, 3, 2]) == 2.5


def test_the_age_of_a_picture_counts_from_when_its_key_was_to_be_pressed() -> None:
    assert Shown(scheduled=10.0, arrived=10.25).age == 0.25


def test_the_screen_shows_its_last_picture_and_before_that_is_as_old_as_the_first_key() -> None:
    typist = Typed(keys=(0.0, 0.1, 0.2), shown=(Shown(0.1, 0.5),))
    ages = screen_ages(typist, 0.4, 0.6)
    assert len(ages) == round(0.2 / SAMPLE)
    assert ages[0] == pytest.approx(0.4)
    assert ages[-1] == pytest.approx(0.6 - SAMPLE - 0.1)


def test_a_screen_without_a_picture_grows_old() -> None:
    assert max(screen_ages(Typed((1.0,), ()), 1.0, 3.0)) == pytest.approx(2.0 - SAMPLE)


def test_a_typist_who_never_typed_has_no_screen() -> None:
    assert screen_ages(Typed((), ()), 0, 1) == []


def test_only_the_window_counts() -> None:
    keys = tuple(i / 10 for i in range(30))
    shown = tuple(Shown(key, key + 0.2) for key in keys[::2])
    figures = typist_figures([Typed(keys, shown)], 1.0, 2.0)
    assert figures.images_per_s == 5
    assert figures.prompt_age_p50 == pytest.approx(0.2)
    assert figures.prompt_age_p95 == pytest.approx(0.2)
    assert figures.superseded_share == pytest.approx(0.5)
    assert figures.fairness == 1


def test_a_silent_server_has_a_rate_of_zero_and_no_ages() -> None:
    figures = typist_figures([Typed((0.0, 0.5), ())], 0, 1)
    assert figures.images_per_s == 0
    assert figures.superseded_share == 1
    assert math.isnan(figures.prompt_age_p95)
    assert math.isnan(figures.fairness)
    assert figures.screen_age_p95 > 0.9


@pytest.mark.parametrize(("delivered", "expected"), [([10, 10], 1.0), ([30, 10], 3.0), ([5, 0], 5.0)])
def test_fairness_is_most_over_least_and_stays_finite(delivered: list[int], expected: float) -> None:
    assert fairness(delivered) == expected
