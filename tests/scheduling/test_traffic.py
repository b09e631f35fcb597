"""Crowds on the virtual clock: fairness between fast and slow typists, overload, mixed lanes."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics

from onestroke.errors import Overloaded
from onestroke.scheduling.rows import Lane
from onestroke.scheduling.scheduler import Scheduler
from tests.doubles import Cost, FakeLink, make_scheduler, request
from tests.sockets import FakeSocket, converse
from tests.virtual_time import on_virtual_time


async def type_along(
    socket: FakeSocket, keys_per_second: float, seconds: float, chance: random.Random
) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await asyncio.sleep(chance.random())
    for seq in itertools.count():
        socket.say(type="generate", seq=seq, prompt=f"key {seq}")
        await asyncio.sleep(chance.uniform(0.5, 1.5) / keys_per_second)
        if loop.time() >= end:
            break


async def crowd(
    scheduler: Scheduler, rates: list[float], seconds: float, settle: float = 0.0
) -> list[FakeSocket]:
    """Everybody types for `seconds`, then leaves; what is delivered in the first `settle` of them is forgotten."""
    chance = random.Random(1)
    conversations = [converse(scheduler) for _ in rates]
    sockets = [socket for socket, _ in conversations]

    def forget() -> None:
        for socket in sockets:
            socket.pictures.clear()

    asyncio.get_running_loop().call_later(settle, forget)
    await asyncio.gather(
        *(type_along(socket, rate, seconds, chance) for socket, rate in zip(sockets, rates, strict=True))
    )
    for socket in sockets:
        socket.leave()
    await asyncio.gather(*(task for _, task in conversations))
    return sockets


@on_virtual_time
async def test_a_thousand_typists_slow_and_fast_get_equally_many_pictures() -> None:
    """More keys than can be drawn even from the slow ones; the first seconds, while they join, do not count."""
    scheduler = make_scheduler(max_batch=64)
    FakeLink(scheduler, cost=Cost(encode=(0, 1e-5), step=(0.02, 0.0005), decode=(0, 0.0006))).start()
    rates = [1.5 if i % 2 else 5.0 for i in range(1000)]
    sockets = await crowd(scheduler, rates, 12.0, settle=2.0)
    delivered = [len(socket.pictures) for socket in sockets]
    assert min(delivered) >= 4
    assert max(delivered) / min(delivered) <= 1.5


@on_virtual_time
async def test_under_twice_the_load_goodput_stays_flat_and_waits_stay_bounded() -> None:
    async def offered(factor: float) -> tuple[int, float]:
        scheduler = make_scheduler(max_wait=0.5, request_timeout=5.0)
        FakeLink(scheduler).start()
        capacity = 16 / (0.0042 + 0.020 + 0.018)
        done: list[float] = []

        async def call(i: int) -> None:
            began = scheduler.now
            try:
                ticket = scheduler.submit(request(f"{i}"), lane=Lane.BULK, tenant=f"{i % 50}")
                await ticket.picture
            except Overloaded:
                return
            done.append(scheduler.now - began)

        calls = []
        for i in range(int(5 * capacity * factor)):
            calls.append(asyncio.ensure_future(call(i)))
            await asyncio.sleep(1 / (capacity * factor))
        await asyncio.gather(*calls)
        return len(done), statistics.quantiles(done, n=100)[98]

    normal, _ = await offered(0.9)
    doubled, p99 = await offered(2.0)
    assert doubled >= 0.95 * normal
    assert p99 < 1.0


@on_virtual_time
async def test_long_pictures_go_on_while_a_crowd_types_and_hardly_slow_it() -> None:
    async def typing(with_bulk: bool) -> tuple[int, bool]:
        scheduler = make_scheduler()
        FakeLink(scheduler).start()
        long = [
            scheduler.submit(request("long", steps=50), lane=Lane.BULK, tenant=f"b{i}", timeout=60)
            for i in range(2 if with_bulk else 0)
        ]
        sockets = await crowd(scheduler, [8.0] * 40, 6.0)
        return sum(len(socket.pictures) for socket in sockets), all(each.picture.done() for each in long)

    alone, _ = await typing(False)
    beside, finished = await typing(True)
    assert finished
    assert beside > 0.75 * alone
