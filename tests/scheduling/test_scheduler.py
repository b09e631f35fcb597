"""The scheduler on virtual time, with a worker whose passes cost a*n + b."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from onestroke.core import Control, Picture, SourceImage
from onestroke.errors import (
    Cancelled,
    DeadlineExceeded,
    GenerationFailed,
    Overloaded,
    Unavailable,
    WorkerDied,
)
from onestroke.scheduling.rows import Lane
from onestroke.scheduling.scheduler import Scheduler, Ticket
from onestroke.workers.messages import PassDone, PictureDone, Progress, Ready
from tests.doubles import Cost, FakeLink, make_scheduler, request
from tests.virtual_time import on_virtual_time


def bulk(scheduler: Scheduler, prompt: str = "a fox", tenant: str = "app", **kw: Any) -> Ticket:
    asked = {key: kw.pop(key) for key in ("steps", "guidance_scale", "width") if key in kw}
    return scheduler.submit(request(prompt, **asked), lane=Lane.BULK, tenant=tenant, **kw)


def key(scheduler: Scheduler, prompt: str, tenant: str = "ann", replaces: Ticket | None = None) -> Ticket:
    return scheduler.submit(
        request(prompt), lane=Lane.INTERACTIVE, tenant=tenant, timeout=120, replaces=replaces
    )


def nothing_is_left(scheduler: Scheduler) -> bool:
    states = scheduler._workers.values()
    return not (scheduler._tickets or scheduler._waiting or any(w.held or w.prepared for w in states))


@on_virtual_time
async def test_a_request_becomes_a_picture() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    picture = await bulk(scheduler, "a red fox").picture
    assert picture.data == b"a red fox"
    await asyncio.sleep(1)
    assert nothing_is_left(scheduler)


@on_virtual_time
async def test_the_running_pass_is_the_batching_window() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler).start()
    tickets = [bulk(scheduler, f"{i}", tenant=f"{i}") for i in range(9)]
    await asyncio.gather(*(ticket.picture for ticket in tickets))
    assert [len(each.step) for each in link.passes] == [1, 8]


@on_virtual_time
async def test_rows_are_prepared_while_the_device_is_busy() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler).start()
    bulk(scheduler)
    second = bulk(scheduler)
    assert second.row.id in link.requests
    assert len(link.passes) == 1


@on_virtual_time
async def test_only_as_many_rows_are_prepared_as_ride_the_next_pass() -> None:
    scheduler = make_scheduler(max_batch=8)
    link = FakeLink(scheduler).start()
    tickets = []
    for i in range(30):
        tickets.append(key(scheduler, f"{i}", tenant=f"{i}"))
        await asyncio.sleep(1e-5)
    prepared = scheduler._workers[link.name].prepared
    assert prepared == {each.row.id for each in tickets[1:9]}
    superseded = key(scheduler, "newest", tenant="3", replaces=tickets[3])
    assert prepared == {each.row.id for each in (*tickets[1:3], *tickets[4:9], superseded)}
    await tickets[0].picture
    await asyncio.sleep(0)
    assert prepared == set(sorted(scheduler._waiting)[:8])


@on_virtual_time
async def test_a_four_step_row_and_one_step_keys_share_passes() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler).start()
    long = bulk(scheduler, "slow", steps=4)
    await asyncio.sleep(0)
    keys = [key(scheduler, "k", tenant=f"p{i}") for i in range(3)]
    await asyncio.gather(long.picture, *(each.picture for each in keys))
    shared = [each for each in link.passes if long.row.id in each.step and len(each.step) > 1]
    assert shared
    assert len(link.passes) == 4
    assert scheduler.metrics.mixed_passes._value.get() >= 1


@on_virtual_time
async def test_a_newer_key_takes_over_the_place_of_the_waiting_one() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    running = key(scheduler, "r")
    waiting = key(scheduler, "re")
    await asyncio.sleep(0.001)
    newest = key(scheduler, "red", replaces=waiting)
    assert newest.row.arrived == waiting.row.arrived
    assert (await running.picture).data == b"r"
    assert (await newest.picture).data == b"red"
    with pytest.raises(Cancelled):
        await waiting.picture


@on_virtual_time
async def test_a_begun_key_is_not_replaced() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    running = key(scheduler, "r")
    newest = key(scheduler, "re", replaces=running)
    assert (await running.picture).data == b"r"
    assert (await newest.picture).data == b"re"


@on_virtual_time
async def test_cancel_before_the_first_pass_leaves_nothing_behind() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler).start()
    first, second = bulk(scheduler, "a"), bulk(scheduler, "b")
    second.cancel()
    await first.picture
    await asyncio.sleep(1)
    assert len(link.passes) == 1
    assert second.row.id in link.dropped
    assert nothing_is_left(scheduler)


@on_virtual_time
async def test_cancel_between_steps_takes_effect_at_the_next_step() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler).start()
    long = bulk(scheduler, "long", steps=50)
    await asyncio.sleep(0.1)
    begun = len(link.passes)
    long.cancel()
    await asyncio.sleep(1)
    assert 1 < begun <= len(link.passes) <= begun + 1
    assert long.row.id in link.dropped
    assert nothing_is_left(scheduler)


@on_virtual_time
async def test_cancel_twice_and_after_the_end_does_no_harm() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    ticket = bulk(scheduler)
    await ticket.picture
    ticket.cancel()
    ticket.cancel()
    assert (await ticket.picture).data == b"a fox"


@on_virtual_time
async def test_a_full_backlog_is_refused_at_the_door() -> None:
    scheduler = make_scheduler(max_backlog=3, max_batch=1)
    FakeLink(scheduler, hold=True).start()
    for _ in range(4):
        bulk(scheduler)
    with pytest.raises(Overloaded) as refused:
        bulk(scheduler)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1


@on_virtual_time
async def test_in_mixed_traffic_the_expected_wait_counts_controlnets_for_the_rows_they_steer_alone() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler).start()
    plain, steered = request(steps=4), request(steps=4, control=Control("edge", SourceImage("", b"")))
    for crowd in ([steered], [steered] * 3, [steered, plain, plain], [steered] * 8 + [plain] * 4):
        tickets = [scheduler.submit(each, lane=Lane.BULK, tenant="a") for each in crowd]
        await asyncio.gather(*(ticket.picture for ticket in tickets))
    fits = scheduler._workers[link.name].fits.of(plain)
    assert fits.predict(step=8) == pytest.approx(link.cost.of("step", 8))
    assert fits.predict(control=8) == pytest.approx(link.cost.of("control", 8))

    link.hold = True
    bulk(scheduler)
    waits = []
    for each in (plain, steered):
        tickets = [scheduler.submit(each, lane=Lane.BULK, tenant="a") for _ in range(16)]
        waits.append(scheduler.expected_wait())
        for ticket in tickets:
            ticket.cancel()
    assert waits[1] - waits[0] == pytest.approx(16 * 4 * fits.predict(control=16) / 16)


@on_virtual_time
async def test_a_long_expected_wait_is_refused_with_the_time_to_come_back() -> None:
    scheduler = make_scheduler(max_wait=2.0, max_backlog=10_000)
    FakeLink(scheduler, cost=Cost(step=(0.5, 0.1)), hold=True).start()
    while scheduler.expected_wait() <= 2.0:
        bulk(scheduler)
    with pytest.raises(Overloaded) as refused:
        bulk(scheduler)
    assert refused.value.retry_after is not None
    assert 2.0 <= scheduler.expected_wait() < 4.0


@on_virtual_time
async def test_keys_are_never_refused_for_load() -> None:
    scheduler = make_scheduler(max_backlog=1, max_wait=0.001)
    FakeLink(scheduler, hold=True).start()
    for i in range(50):
        key(scheduler, "k", tenant=f"{i}")


@on_virtual_time
async def test_an_accepted_request_is_answered_by_its_deadline() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler, hold=True).start()
    began = scheduler.now
    with pytest.raises(DeadlineExceeded):
        await bulk(scheduler, timeout=3.0).picture
    assert scheduler.now - began == pytest.approx(3.0)


@on_virtual_time
async def test_while_the_first_worker_warms_up_what_can_wait_waits() -> None:
    scheduler = make_scheduler(request_timeout=60)
    link = FakeLink(scheduler)
    scheduler.on_start(link)
    scheduler.on_reply(link, Progress("loading", 0.5))
    patient = bulk(scheduler)
    with pytest.raises(Unavailable) as refused:
        bulk(scheduler, timeout=1.0)
    assert refused.value.retry_after is not None
    scheduler.on_reply(link, Ready("fake", "float32", 1, 1, link.cost.samples()))
    assert (await patient.picture).data == b"a fox"


@on_virtual_time
async def test_a_death_replays_every_row_once() -> None:
    scheduler = make_scheduler()
    first = FakeLink(scheduler, hold=True).start()
    tickets = [bulk(scheduler, f"{i}", tenant=f"{i}") for i in range(5)]
    first.kill("killed")
    assert not scheduler.ready
    second = FakeLink(scheduler).start()
    assert [(await ticket.picture).data for ticket in tickets] == [b"0", b"1", b"2", b"3", b"4"]
    assert [len(each.step) for each in second.passes] == [4, 1], (
        "the row of the pass that died rides alone, last"
    )


@on_virtual_time
async def test_the_row_that_kills_twice_fails_and_the_others_are_drawn() -> None:
    scheduler = make_scheduler()

    class Killer(FakeLink):
        def _run(self, order: Any) -> None:
            if any(self.requests[row].prompt == "poison" for row in order.step):
                asyncio.get_running_loop().call_later(0.01, self.kill, "killed")
            else:
                super()._run(order)

    gate = Killer(scheduler, hold=True).start()
    tickets = [bulk(scheduler, prompt, tenant=prompt) for prompt in ("gate", "a", "poison", "b")]
    gate.hold = False
    gate._run(gate.passes[0])
    deaths = 0
    for _ in range(6):
        await asyncio.sleep(1)
        if not scheduler.ready:
            deaths += 1
            Killer(scheduler).start()
    assert deaths == 2
    outcomes = await asyncio.gather(*(ticket.picture for ticket in tickets), return_exceptions=True)
    assert isinstance(outcomes[2], WorkerDied)
    assert [each.data for each in outcomes if isinstance(each, Picture)] == [b"gate", b"a", b"b"]


@on_virtual_time
async def test_a_pass_that_hangs_gets_its_worker_killed() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler, hold=True).start()
    bulk(scheduler)
    await asyncio.sleep(4.9)
    assert link.killed is None
    await asyncio.sleep(0.2)
    assert link.killed == "hang"


@on_virtual_time
async def test_after_a_death_what_cannot_wait_gets_its_answer_at_once() -> None:
    scheduler = make_scheduler(request_timeout=30)
    link = FakeLink(scheduler, hold=True)
    scheduler.on_start(link)
    await asyncio.sleep(12)
    scheduler.on_reply(link, Ready("fake", "float32", 1, 1, link.cost.samples()))
    soon, late = bulk(scheduler, timeout=5.0), bulk(scheduler, timeout=30.0)
    began = scheduler.now
    link.kill("killed")
    with pytest.raises(Unavailable) as refused:
        await soon.picture
    assert scheduler.now == began
    assert refused.value.retry_after == pytest.approx(12.0)
    assert not late.picture.done()


@on_virtual_time
async def test_stale_answers_of_a_dead_incarnation_are_dropped() -> None:
    scheduler = make_scheduler()
    first = FakeLink(scheduler, hold=True).start()
    ticket = bulk(scheduler)
    first.kill("killed")
    FakeLink(scheduler).start()
    scheduler.on_reply(first, PictureDone(ticket.row.id, b"stale", False, None, 1, 0, 0, 0, 0))
    scheduler.on_reply(first, PassDone(1, ()))
    scheduler.on_lost(first, "again")
    assert (await ticket.picture).data == b"a fox"


@on_virtual_time
async def test_a_failed_row_leaves_its_neighbours_alone() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler, fail={"poison"}).start()
    good, poison = bulk(scheduler, "good"), bulk(scheduler, "poison")
    with pytest.raises(GenerationFailed):
        await poison.picture
    assert (await good.picture).data == b"good"
    await asyncio.sleep(1)
    assert nothing_is_left(scheduler)


@on_virtual_time
async def test_draining_answers_what_was_accepted_and_refuses_the_rest() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    tickets = [bulk(scheduler, f"{i}", tenant=f"{i}") for i in range(20)]
    drained = asyncio.ensure_future(scheduler.drained())
    await asyncio.sleep(0)
    assert not scheduler.ready
    with pytest.raises(Unavailable):
        bulk(scheduler)
    await drained
    assert all(ticket.picture.result().data for ticket in tickets)


@on_virtual_time
async def test_a_leaving_server_is_unready_at_once_and_closed_when_balancers_have_noticed() -> None:
    scheduler = make_scheduler(drain_notice=2.0)
    FakeLink(scheduler).start()
    drained = asyncio.ensure_future(scheduler.drained())
    await asyncio.sleep(1.9)
    assert not scheduler.ready
    late = scheduler.submit(request(), lane=Lane.BULK, tenant="a")
    assert (await late.picture).data
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable) as refused:
        scheduler.submit(request(), lane=Lane.BULK, tenant="a")
    assert refused.value.retry_after
    await drained


@on_virtual_time
async def test_draining_ends_although_a_worker_hangs() -> None:
    scheduler = make_scheduler(drain_timeout=2.0)
    FakeLink(scheduler, hold=True).start()
    ticket = bulk(scheduler)
    await scheduler.drained()
    with pytest.raises(Unavailable):
        await ticket.picture


@on_virtual_time
async def test_two_workers_share_the_work_and_one_may_die() -> None:
    scheduler = make_scheduler(max_batch=2)
    links = [FakeLink(scheduler, name=f"worker-{i}").start() for i in range(2)]
    tickets = [bulk(scheduler, f"{i}", tenant=f"{i}") for i in range(20)]
    await asyncio.sleep(0.02)
    links[0].kill("killed")
    assert scheduler.ready
    assert len(await asyncio.gather(*(ticket.picture for ticket in tickets))) == 20
    assert all(link.passes for link in links)
    assert nothing_is_left(scheduler)


@on_virtual_time
async def test_a_long_picture_moves_a_key_by_no_more_than_its_own_row() -> None:
    """A 50-step picture under way: a keystroke rides with its next step instead of waiting behind it."""

    async def key_latency(with_bulk: bool) -> float:
        scheduler = make_scheduler()
        FakeLink(scheduler).start()
        if with_bulk:
            bulk(scheduler, steps=50)
        worst = 0.0
        for i in range(20):
            await asyncio.sleep(0.0137)
            began = scheduler.now
            await key(scheduler, f"{i}").picture
            worst = max(worst, scheduler.now - began)
        return worst

    alone, beside = await key_latency(False), await key_latency(True)
    step = Cost().of("step", 2)
    assert beside <= alone + step + 0.002
