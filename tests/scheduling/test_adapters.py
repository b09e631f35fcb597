"""Adapters in the policy (no thrashing, no starving) and in the scheduler (known by name, read by every worker)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from onestroke.core import AdapterUse, FitKey
from onestroke.errors import InvalidRequest, ModelError, Unavailable, WireError
from onestroke.models.specs import AdapterSpec, FileSpec
from onestroke.scheduling.fits import FitTable
from onestroke.scheduling.policy import PATIENCE, PassPlan, next_pass
from onestroke.scheduling.rows import Lane, Row
from onestroke.workers.messages import AdapterAdded, AddAdapter, Command, Ready, RemoveAdapter, Sample
from tests.doubles import Cost, FakeLink, make_scheduler, request
from tests.scheduling.test_policy import WIDE, row
from tests.virtual_time import on_virtual_time

STYLE = (AdapterUse("style", 1.0),)
SWITCH = 0.01
NEW = AdapterSpec("style", FileSpec("/style.safetensors"))


def styled(arrived: float, **state: Any) -> Row:
    made = row(arrived=arrived, **state)
    made.request = request(adapters=STYLE)
    return made


def plan(waiting: list[Row], merged: tuple[AdapterUse, ...] = ()) -> PassPlan:
    table = FitTable()
    table.observe([*Cost().samples(), Sample(FitKey("embedded"), "switch", 1, SWITCH)])
    found = next_pass(waiting, [], set(), table, WIDE, merged={"embedded": merged})
    assert found is not None
    return found


def test_rows_of_other_adapters_do_not_ride_together() -> None:
    plain, other, also = row(arrived=0.0), styled(0.1), styled(0.2)
    assert plan([plain, other, also]).rows == [plain]
    assert plan([other, also]).rows == [other, also]


def test_what_is_merged_goes_first_for_some_switches_time_and_no_longer() -> None:
    plain = row(arrived=1.0)
    assert plan([plain, styled(1.0 - 0.9 * PATIENCE * SWITCH)]).rows == [plain]
    older = styled(1.0 - 1.1 * PATIENCE * SWITCH)
    assert plan([plain, older]).rows == [older]
    assert plan([plain, older], merged=STYLE).rows == [older]


def test_the_row_that_switches_pays_for_it() -> None:
    assert plan([styled(0.0)]).predicted == pytest.approx(SWITCH + plan([row()]).predicted)
    assert plan([styled(0.0)], merged=STYLE).predicted == pytest.approx(plan([row()]).predicted)


def test_two_busy_sets_share_the_device_and_seldom_switch() -> None:
    """Callers of both sets, one picture after the other: passes of a set come in runs."""
    now, merged, switches, drawn = 0.0, (), 0, {(): 0, STYLE: 0}
    waiting = [row(arrived=0.0) for _ in range(4)] + [styled(0.0) for _ in range(4)]
    for _ in range(400):
        found = plan(waiting, merged)
        chosen = found.rows[0].request.adapters
        switches, merged = switches + (chosen != merged), chosen
        now += found.predicted
        for each in found.rows:
            waiting.remove(each)
            waiting.append(styled(now) if chosen else row(arrived=now))
            drawn[chosen] += 1
    assert switches * SWITCH < now / 5
    assert min(drawn.values()) > 0.4 * max(drawn.values())


@dataclass
class Adaptable(FakeLink):
    """A worker that reads adapters; `refuse` says why it does not."""

    refuse: str = ""
    deaf: bool = False
    known: list[str] = field(default_factory=list)

    def send(self, command: Command) -> None:
        match command:
            case AddAdapter() if not self.deaf:
                error = WireError(ModelError.code, self.refuse) if self.refuse else None
                self.known += [] if error else [command.adapter.name]
                self.scheduler.on_reply(self, AdapterAdded(command.adapter.name, ("embedded",), error))
            case RemoveAdapter():
                self.known = [name for name in self.known if name != command.name]
            case _:
                super().send(command)


@on_virtual_time
async def test_an_adapter_is_known_once_every_worker_has_read_it() -> None:
    scheduler = make_scheduler()
    links = [Adaptable(scheduler, name=f"worker-{i}") for i in range(2)]
    with pytest.raises(Unavailable):
        await scheduler.adapters.add(NEW)
    for link in links:
        link.start()
    asked = request(adapters=STYLE)
    with pytest.raises(InvalidRequest, match="there is no adapter 'style' for embedded; there are: none"):
        scheduler.submit(asked, lane=Lane.BULK, tenant="t")
    await scheduler.adapters.add(NEW)
    assert [link.known for link in links] == [["style"], ["style"]]
    assert (scheduler.adapters.of("embedded"), scheduler.adapters.of("other")) == (["style"], [])
    assert (await scheduler.submit(asked, lane=Lane.BULK, tenant="t").picture).request.adapters == STYLE
    with pytest.raises(InvalidRequest, match="for other"):
        scheduler.submit(request(adapters=STYLE, model="other"), lane=Lane.BULK, tenant="t")
    with pytest.raises(InvalidRequest, match="delete it first"):
        await scheduler.adapters.add(NEW)
    scheduler.adapters.remove("style")
    assert [link.known for link in links] == [[], []]
    with pytest.raises(InvalidRequest, match="there is no adapter"):
        scheduler.adapters.remove("style")


@on_virtual_time
async def test_a_worker_that_becomes_ready_meanwhile_reads_it_too_and_a_name_is_added_once() -> None:
    scheduler = make_scheduler()
    slow, late = Adaptable(scheduler, name="worker-0", deaf=True), Adaptable(scheduler, name="worker-1")
    slow.start()
    adding = asyncio.create_task(scheduler.adapters.add(NEW))
    await asyncio.sleep(1)
    with pytest.raises(InvalidRequest, match="already"):
        await scheduler.adapters.add(NEW)
    late.start()
    scheduler.on_reply(slow, AdapterAdded("style", ("embedded",)))
    await adding
    assert late.known == ["style"]


@on_virtual_time
async def test_what_a_worker_cannot_read_is_not_known() -> None:
    scheduler = make_scheduler()
    links = [
        Adaptable(scheduler, name="worker-0"),
        Adaptable(scheduler, name="worker-1", refuse="it is a DoRA"),
    ]
    for each in links:
        each.start()
    link = links[1]
    with pytest.raises(ModelError, match="it is a DoRA"):
        await scheduler.adapters.add(NEW)
    link.deaf = True
    with pytest.raises(Unavailable, match="in time"):
        await scheduler.adapters.add(NEW)
    assert not scheduler.adapters.known
    assert not links[0].known, "nor by the worker that could"


@on_virtual_time
async def test_a_worker_that_begins_again_is_given_what_it_lacks() -> None:
    scheduler = make_scheduler()
    Adaptable(scheduler).start()
    await scheduler.adapters.add(NEW)
    scheduler.adapters.known["first"] = AdapterSpec("first", FileSpec("/first.safetensors"))
    again = Adaptable(scheduler)
    scheduler.on_start(again)
    ready = Ready("fake", "float32", 1, 1, again.cost.samples(), adapters={"first": ("embedded",)})
    scheduler.on_reply(again, ready)
    assert again.known == ["style"], "the first it has read as it was loaded"
