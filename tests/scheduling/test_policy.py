from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onestroke.core import Control, FitKey, SourceImage
from onestroke.scheduling.fits import Fits, FitTable
from onestroke.scheduling.policy import (
    LEAST_SHARE,
    SUSPICION,
    Limits,
    PassPlan,
    in_turn,
    next_pass,
    typists_turn,
)
from onestroke.scheduling.rows import Lane, Row
from onestroke.workers.messages import Sample
from tests.doubles import Cost, request

ids = itertools.count(1)
WIDE = Limits(max_batch=16, budget=10.0, slots=64)


def row(lane: Lane = Lane.BULK, tenant: str = "t", arrived: float = 0.0, **state: Any) -> Row:
    asked = {key: state.pop(key) for key in ("steps", "guidance_scale", "width", "control") if key in state}
    each = Row(next(ids), request(**asked), lane, tenant, arrived, arrived, arrived + 30)
    for name, value in state.items():
        setattr(each, name, value)
    return each


def typed(tenant: str, arrived: float = 0.0, **state: Any) -> Row:
    return row(Lane.INTERACTIVE, tenant, arrived, **state)


def table() -> FitTable:
    found = FitTable()
    found.observe(Cost().samples())
    return found


def fits() -> Fits:
    return table().of(request())


def plan(waiting: list[Row], begun: list[Row] | None = None, limits: Limits = WIDE, **kw: Any) -> PassPlan:
    found = next_pass(
        waiting, begun or [], kw.get("busy", set()), table(), limits, bulk_turn=kw.get("bulk_turn", False)
    )
    assert found is not None
    return found


def test_a_controlnets_time_counts_against_the_budget() -> None:
    costs = table()
    costs.observe([Sample(FitKey("embedded"), "step", 1, Cost().of("step", 1) + 0.05, steered=1)])
    limits = Limits(max_batch=16, budget=costs.of(request()).one_step(4) + 0.12, slots=64)
    steered = Control("edge", SourceImage("", b""))
    plain = next_pass([row() for _ in range(4)], [], set(), costs, limits)
    mixed = next_pass([row(control=steered) for _ in range(4)], [], set(), costs, limits)
    assert plain is not None
    assert mixed is not None
    assert (len(plain.rows), len(mixed.rows), mixed.stop) == (4, 2, "budget")
    assert mixed.predicted == pytest.approx(costs.of(request()).one_step(2) + 2 * 0.05)


def test_nothing_waiting_means_no_pass() -> None:
    assert next_pass([], [], set(), table(), WIDE) is None


def test_a_new_one_step_row_is_encoded_stepped_and_decoded_in_one_pass() -> None:
    one = row()
    found = plan([one])
    assert (found.encode, found.rows, found.decode) == ([one], [one], [one])


def test_rows_at_different_steps_share_a_pass() -> None:
    fresh, bulk = typed("a"), row(steps=4, begun=True, steps_done=2)
    found = plan([fresh], [bulk])
    assert set(found.rows) == {fresh, bulk}
    assert found.decode == [fresh]
    assert found.mixed


def test_a_guided_row_counts_as_two() -> None:
    rows = [row(tenant=str(i), guidance_scale=5.0, arrived=i) for i in range(9)]
    found = plan(rows)
    assert (len(found.rows), found.unet_rows, found.stop) == (8, 16, "batch")


def test_a_pass_ends_at_its_budget_but_always_takes_one_row() -> None:
    rows = [row(tenant=str(i), arrived=i) for i in range(10)]
    assert plan(rows, limits=Limits(16, 0.0001, 64)).rows == rows[:1]
    budget = fits().one_step(4)
    found = plan(rows, limits=Limits(16, budget * 1.01, 64))
    assert (found.rows, found.stop) == (rows[:4], "budget")
    assert found.predicted <= budget * 1.01


def test_another_size_waits_for_its_own_pass() -> None:
    small, large = row(arrived=1, tenant="a"), row(arrived=0, tenant="b", width=1024)
    assert plan([small, large]).rows == [large]


def test_people_who_type_go_before_bulk_of_the_same_age() -> None:
    bulk = [row(tenant=str(i), arrived=-0.5) for i in range(20)]
    people = [typed(f"p{i}", arrived=0.0) for i in range(20)]
    found = plan(bulk + people, limits=Limits(16, fits().one_step(8), 64))
    assert sum(each.lane is Lane.INTERACTIVE for each in found.rows) >= 5


def test_bulk_keeps_a_row_in_every_pass_while_people_type() -> None:
    found = plan([row(arrived=5.0), *(typed(f"p{i}", arrived=0.0) for i in range(40))])
    assert sum(each.lane is Lane.BULK for each in found.rows) == 1


def test_with_another_key_people_go_first_however_old_bulk_is_until_it_is_its_turn() -> None:
    rows = [row(arrived=0.0, width=1024), *(typed(f"p{i}", arrived=10.0) for i in range(4))]
    assert plan(rows).rows == rows[1:]
    assert plan(rows, bulk_turn=True).rows == rows[:1]
    assert plan(rows[1:], bulk_turn=True).rows == rows[1:], "a turn that nobody takes is anybody's"


def test_bulk_has_its_share_of_the_time_beside_typists_of_another_key() -> None:
    lonely, shared = plan([row()]), plan([row(), typed("a")])
    assert typists_turn(lonely, 2.0, bulk_share=0.25) == pytest.approx(6.0)
    assert typists_turn(lonely, 2.0, bulk_share=1.0) == 0.0
    assert typists_turn(lonely, 2.0, bulk_share=0.0) == pytest.approx(2.0 / LEAST_SHARE - 2.0)
    assert typists_turn(shared, 2.0, bulk_share=0.25) == 0.0


def test_a_pass_is_bounded_by_what_its_own_model_costs() -> None:
    found = table()
    found.observe(Cost(step=(0.0, 0.5)).samples(model="slow"))
    for model, taken in (("embedded", 10), ("slow", 1)):
        rows = [Row(next(ids), request(model=model), Lane.BULK, str(i), i, i, 30) for i in range(20)]
        best = next_pass(rows, [], set(), found, Limits(max_batch=16, budget=0, slots=64))
        assert best
        assert len(best.rows) == taken
        assert best.predicted <= found.of(rows[0].request).knee(16) * 1.01


def test_a_person_has_one_picture_in_the_making() -> None:
    assert next_pass([typed("a", 1.0)], [], {"a"}, table(), WIDE) is None


def test_no_row_begins_without_a_slot_and_begun_ones_go_on() -> None:
    held = [row(tenant=str(i), steps=9, begun=True, steps_done=1) for i in range(3)]
    found = plan([row(tenant="new", arrived=-5)], held, Limits(16, 10.0, slots=3))
    assert set(found.rows) == set(held)


def test_a_person_needs_no_slot() -> None:
    held = [row(tenant=str(i), steps=9, begun=True, steps_done=1, width=1024) for i in range(3)]
    found = plan([typed("new"), row()], held, Limits(16, 10.0, slots=3))
    assert [each.tenant for each in found.rows] == ["new"]


def test_a_suspect_rides_alone() -> None:
    suspect = row(arrived=0.0, alone=True)
    others = [row(arrived=SUSPICION + 0.1, tenant=str(i)) for i in range(4)]
    assert plan([suspect, *others]).rows == [suspect]


def test_a_suspect_lets_the_unsuspected_go_first() -> None:
    suspect = row(arrived=0.0, alone=True)
    others = [row(arrived=SUSPICION - 0.1, tenant=str(i)) for i in range(4)]
    assert plan([suspect, *others]).rows == others


def test_one_tenants_ten_pictures_do_not_hold_up_another() -> None:
    many = [row(tenant="many", arrived=0.0) for _ in range(10)]
    single = row(tenant="single", arrived=1.0)
    assert single in in_turn([*many, single])[:2]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Lane), st.integers(0, 6), st.floats(0, 9), st.integers(1, 4), st.booleans()
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 16),
    st.floats(0.001, 0.2),
)
def test_every_plan_keeps_its_limits(rows: Any, max_batch: int, budget: float) -> None:
    waiting = [row(lane, f"{lane}{t}", at, steps=n, guidance_scale=7.0 * g) for lane, t, at, n, g in rows]
    found = plan(waiting, limits=Limits(max_batch, budget, slots=8))
    assert found.rows
    assert len(set(found.rows)) == len(found.rows)
    assert sum(each.lane is Lane.BULK for each in found.rows) <= 8
    assert found.unet_rows == sum(each.request.unet_rows for each in found.rows)
    if len(found.rows) > 1:
        assert found.unet_rows <= max_batch
        assert found.predicted <= budget
    assert set(found.decode) == {each for each in found.rows if each.request.steps == 1}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_bulk_share_bounds_what_bulk_may_keep(share: float) -> None:
    bulk = [row(tenant=f"b{i}", arrived=0.5) for i in range(16)]
    people = [typed(f"p{i}") for i in range(16)]
    found = plan(bulk + people, limits=Limits(16, fits().one_step(16) * 1.01, 64, bulk_share=share))
    kept = sum(each.lane is Lane.BULK for each in found.rows)
    assert {0.0: kept == 0, 0.25: 1 <= kept <= 4, 1.0: kept >= 8}[share]
