"""Several models on one device, on the virtual clock: neither typists nor bulk starve behind another model."""

from __future__ import annotations

import asyncio
import random
import statistics
from typing import Any, NamedTuple

import pytest

from onestroke.core import FitKey
from onestroke.errors import Overloaded
from onestroke.scheduling.rows import Lane
from tests.doubles import Cost, FakeLink, make_scheduler, request
from tests.virtual_time import on_virtual_time

SLOW = Cost(encode=(0.002, 0.0004), step=(0.02, 0.005), decode=(0.01, 0.005))
"""Five times what the embedded one costs here."""


class Outcome(NamedTuple):
    """Seconds that each key and each bulk picture took."""

    keys: list[float]
    bulk: list[float]


async def mixed(typed: str, bulk: str, *, people: int, callers: int, seconds: float) -> Outcome:
    """People who type one model faster than the device draws, beside callers' 50-step pictures of another."""
    scheduler = make_scheduler()
    FakeLink(scheduler, others={"slow": SLOW}).start()
    outcome, end, chance = Outcome([], []), scheduler.now + seconds, random.Random(1)

    async def type_along(i: int) -> None:
        last = waiting = None
        await asyncio.sleep(chance.random())
        while scheduler.now < end:
            replaced = waiting if waiting and not waiting.begun and not waiting.picture.done() else None
            last = waiting if waiting and waiting.picture.done() else last
            waiting = scheduler.submit(
                request(f"key {i}", model=typed),
                lane=Lane.INTERACTIVE, tenant=f"p{i}", timeout=120, replaces=replaced, follows=last,
            )  # fmt: skip
            row = waiting.row

            def drawn(answer: Any, accepted: float = row.accepted) -> None:
                if answer.exception() is None:
                    outcome.keys.append(scheduler.now - accepted)

            waiting.picture.add_done_callback(drawn)
            await asyncio.sleep(chance.uniform(0.5, 1.5) / 8)

    async def call(i: int) -> None:
        while scheduler.now < end:
            began = scheduler.now
            try:
                asked = request("bulk", model=bulk, steps=50)
                await scheduler.submit(asked, lane=Lane.BULK, tenant=f"b{i}", timeout=60).picture
                outcome.bulk.append(scheduler.now - began)
            except Overloaded as refused:
                await asyncio.sleep(refused.retry_after)

    await asyncio.gather(*(type_along(i) for i in range(people)), *(call(i) for i in range(callers)))
    return outcome


@pytest.mark.parametrize(("typed", "bulk"), [("embedded", "slow"), ("slow", "embedded")])
@pytest.mark.parametrize("callers", [4, 40])
def test_typists_of_one_model_and_bulk_of_another_share_the_device(
    typed: str, bulk: str, callers: int
) -> None:
    """Bulk has a quarter of the time by default: so typists keep most of their pictures and bulk ends in time."""

    @on_virtual_time
    async def compared() -> None:
        alone = await mixed(typed, bulk, people=30, callers=0, seconds=10)
        beside = await mixed(typed, bulk, people=30, callers=callers, seconds=10)
        assert len(beside.keys) >= 0.7 * len(alone.keys)
        assert statistics.quantiles(beside.keys, n=100)[98] < 0.7, "no key waits for many passes"
        assert beside.bulk, "bulk goes on"
        assert min(beside.bulk) < 15.0, "and within the time of a request"

    compared()


@on_virtual_time
async def test_typists_of_two_models_take_turns() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler, others={"slow": SLOW}).start()

    async def type_along(model: str, i: int) -> None:
        for _ in range(20):
            await scheduler.submit(
                request("key", model=model), lane=Lane.INTERACTIVE, tenant=f"{model}{i}", timeout=60
            ).picture

    both = (type_along(model, i) for i in range(20) for model in ("embedded", "slow"))
    await asyncio.gather(*both)
    models = [each.fit.model for each in link.passes]
    longest = max(
        len(run) for model in ("embedded", "slow") for run in "".join(m[0] for m in models).split(model[0])
    )
    assert longest <= 2, "neither waits for more than two passes of the other"


@on_virtual_time
async def test_the_expected_wait_counts_each_model_by_its_own_fit() -> None:
    waits = {}
    for model in ("embedded", "slow"):
        scheduler = make_scheduler()
        FakeLink(scheduler, others={"slow": SLOW}, hold=True).start()
        for i in range(33):
            scheduler.submit(request(model=model), lane=Lane.BULK, tenant=str(i))
        waits[model] = scheduler.expected_wait()
    assert waits["slow"] > 4 * waits["embedded"] > 0


@on_virtual_time
async def test_rows_that_are_drawn_whole_share_a_pass_of_their_steps_and_guidance_alone() -> None:
    """One pass a picture, however many steps; what it costs is known by its steps."""
    scheduler = make_scheduler()
    link = FakeLink(scheduler, others={"whole": SLOW}).start()
    first = scheduler.submit(request(), lane=Lane.BULK, tenant="a")
    kinds = [(4, 0.0), (4, 0.0), (8, 0.0), (4, 5.0)]
    tickets = [
        scheduler.submit(
            request(model="whole", whole=True, steps=steps, guidance_scale=guidance),
            lane=Lane.BULK, tenant=f"b{i}",
        )
        for i, (steps, guidance) in enumerate(kinds)
    ]  # fmt: skip
    await asyncio.gather(first.picture, *(ticket.picture for ticket in tickets))
    assert [len(each.step) for each in link.passes] == [1, 2, 1, 1]
    assert all(each.encode == each.step == each.decode for each in link.passes)
    assert [each.fit for each in link.passes[1:]] == [
        FitKey("whole", 4), FitKey("whole", 8), FitKey("whole", 4, guided=True)
    ]  # fmt: skip
