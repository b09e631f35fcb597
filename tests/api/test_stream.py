"""The typing socket's conversation, on virtual time and without a network."""

from __future__ import annotations

import asyncio

import pytest

from onestroke.api.stream import HELLO_TIMEOUT
from onestroke.workers.messages import Progress
from tests.doubles import Cost, FakeLink, make_scheduler
from tests.sockets import converse
from tests.virtual_time import on_virtual_time


@on_virtual_time
async def test_a_key_is_answered_by_its_picture() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, _ = converse(scheduler)
    socket.say(type="generate", seq=1, prompt="red apple", seed=7)
    await asyncio.sleep(1)
    ((header, data),) = socket.pictures
    assert data == b"red apple"
    assert (header["seq"], header["seed"], header["prompt"]) == (1, 7, "red apple")
    assert header["content_type"] == "image/jpeg"
    assert set(header["timings"]) == {"queue", "encode", "step", "decode", "image"}
    assert socket.sent[0]["type"] == "ready"


@on_virtual_time
async def test_a_session_keeps_one_seed_unless_told_otherwise() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, _ = converse(scheduler)
    for seq in range(3):
        socket.say(type="generate", seq=seq, prompt="x" * (seq + 1))
        await asyncio.sleep(1)
    seeds = {header["seed"] for header, _ in socket.pictures}
    assert len(seeds) == 1


@on_virtual_time
async def test_typing_fast_shows_something_all_along_and_the_last_key_at_once() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler, cost=Cost(step=(0.2, 0.01))).start()
    socket, _ = converse(scheduler)
    text = "a red apple on a blue background, please"
    for seq, end in enumerate(range(1, len(text) + 1)):
        await asyncio.sleep(1 / 8)
        socket.say(type="generate", seq=seq, prompt=text[:end])
    await asyncio.sleep(2 * 0.22)
    assert socket.shown[-1] == len(text) - 1, "within two passes of the last key"
    assert len(socket.shown) > 15, "pictures come while typing goes on"
    assert socket.shown == sorted(socket.shown)
    superseded = socket.of("superseded")
    assert superseded
    assert len(link.passes) == len(socket.shown)


@on_virtual_time
async def test_every_seq_is_shown_superseded_or_failed() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler, cost=Cost(step=(0.05, 0.01))).start()
    socket, _ = converse(scheduler)
    for seq in range(100):
        socket.say(type="generate", seq=seq, prompt=f"p{seq}")
        await asyncio.sleep(0.013)
    await asyncio.sleep(2)
    through = max(message["through"] for message in socket.of("superseded"))
    assert socket.shown[-1] == 99
    assert through < 99


@on_virtual_time
async def test_a_slow_reader_gets_the_newest_picture_and_costs_no_memory() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, _ = converse(scheduler)
    await asyncio.sleep(0.1)
    socket.reading.clear()
    for seq in range(50):
        socket.say(type="generate", seq=seq, prompt=f"p{seq}")
        await asyncio.sleep(0.1)
    socket.reading.set()
    await asyncio.sleep(0.1)
    assert len(socket.pictures) <= 2
    assert socket.shown[-1] == 49


@on_virtual_time
async def test_a_client_that_never_reads_is_closed() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, task = converse(scheduler)
    await asyncio.sleep(0.1)
    socket.reading.clear()
    for _ in range(100):
        socket.say(type="ping")
    await asyncio.sleep(1)
    assert socket.closed is not None
    assert task.done()


@on_virtual_time
async def test_leaving_cancels_what_was_being_drawn() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, task = converse(scheduler)
    socket.say(type="generate", seq=0, prompt="x", steps=8)
    await asyncio.sleep(0.012)
    assert scheduler.accepted == 1
    socket.leave()
    await task
    assert scheduler.accepted == 0


@on_virtual_time
async def test_cancel_forgets_the_key_and_the_next_is_drawn() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, _ = converse(scheduler)
    socket.say(type="generate", seq=0, prompt="x")
    socket.say(type="cancel", seq=0)
    await asyncio.sleep(1)
    assert socket.pictures == []
    socket.say(type="generate", seq=1, prompt="y")
    await asyncio.sleep(1)
    assert socket.shown == [1]


@on_virtual_time
async def test_warm_up_is_told_and_keys_wait_for_it() -> None:
    scheduler = make_scheduler()
    link = FakeLink(scheduler)
    scheduler.on_start(link)
    socket, _ = converse(scheduler)
    socket.say(type="generate", seq=0, prompt="early")
    await asyncio.sleep(1)
    scheduler.on_reply(link, Progress("loading", 0.4))
    await asyncio.sleep(1)
    assert socket.sent[-1] == {"type": "status", "stage": "loading", "fraction": 0.4}
    link.start()
    await asyncio.sleep(1)
    assert socket.of("ready")
    assert socket.shown == [0]


@on_virtual_time
async def test_a_socket_outlives_its_worker() -> None:
    scheduler = make_scheduler()
    first = FakeLink(scheduler, hold=True).start()
    socket, task = converse(scheduler)
    socket.say(type="generate", seq=0, prompt="x")
    await asyncio.sleep(0.1)
    first.kill("killed")
    await asyncio.sleep(0.1)
    assert socket.sent[-1]["type"] == "status"
    FakeLink(scheduler).start()
    await asyncio.sleep(1)
    assert socket.shown == [0]
    assert len(socket.of("ready")) == 2
    assert not task.done()


@on_virtual_time
async def test_draining_is_told_and_what_runs_is_finished() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, task = converse(scheduler)
    idle, idling = converse(scheduler)
    socket.say(type="generate", seq=0, prompt="x")
    await asyncio.sleep(0.001)
    drained = asyncio.create_task(scheduler.drained())
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    assert idling.done(), "an idle session is sent elsewhere at once"
    assert socket.closed is None
    await drained
    await asyncio.sleep(0.1)
    assert socket.shown == [0]
    assert task.done()
    for each in (socket, idle):
        assert each.of("draining") == [{"type": "draining"}]
        assert each.closed is not None
        assert each.closed[0] == 1012


@on_virtual_time
async def test_ping_is_answered_before_and_after_hello() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, _ = converse(scheduler)
    socket.say(type="ping")
    await asyncio.sleep(0.1)
    assert socket.of("pong")


@on_virtual_time
async def test_without_a_hello_the_socket_is_closed() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, task = converse(scheduler)
    socket.inbox.get_nowait()
    await asyncio.sleep(HELLO_TIMEOUT + 1)
    assert socket.closed == (1008, "no hello within 10 seconds")
    assert task.done()


@on_virtual_time
async def test_a_wrong_token_is_refused() -> None:
    scheduler = make_scheduler()
    FakeLink(scheduler).start()
    socket, task = converse(scheduler, api_key="secret")
    await asyncio.sleep(0.1)
    assert socket.closed == (4401, "this server asks for a key")
    assert task.done()


BAD = [
    ({"text": "{"}, None, None),
    ({"text": "[]"}, None, "type"),
    ({"text": '"\\ud800"'}, None, None),
    ({"bytes": b"\x00\x01"}, None, "id"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","image":"a"}'}, 1, "image"),
    ({"text": '{"type":"forget"}'}, None, "id"),
    ({"text": '{"type":"dance"}'}, None, "type"),
    ({"text": '{"type":"hello"}'}, None, "type"),
    ({"text": '{"type":"generate","prompt":"x"}'}, None, "seq"),
    ({"text": '{"type":"generate","seq":-1,"prompt":"x"}'}, -1, "seq"),
    ({"text": '{"type":"generate","seq":1}'}, 1, "prompt"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","colour":"red"}'}, 1, "colour"),
    ({"text": '{"type":"generate","seq":1,"prompt":"  "}'}, 1, "prompt"),
    ({"text": '{"type":"generate","seq":1,"prompt":"\\u0000"}'}, 1, "prompt"),
    ({"text": '{"type":"generate","seq":1,"prompt":"' + "x" * 100_000 + '"}'}, 1, "prompt"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","steps":0}'}, 1, "steps"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","steps":1000}'}, 1, "steps"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","seed":-1}'}, 1, "seed"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","seed":9007199254740992}'}, 1, "seed"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","guidance_scale":1e9}'}, 1, "guidance_scale"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","width":512}'}, 1, "height"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","width":513,"height":7}'}, 1, "size"),
    ({"text": '{"type":"generate","seq":1,"prompt":"x","negative_prompt":"y"}'}, 1, "negative_prompt"),
    ({"text": '{"type":"cancel"}'}, None, "seq"),
]


@pytest.mark.parametrize(("frame", "seq", "field"), BAD)
def test_bad_input_gets_an_error_that_names_the_field_and_the_socket_goes_on(
    frame: dict[str, object], seq: int | None, field: str | None
) -> None:
    @on_virtual_time
    async def scenario() -> None:
        scheduler = make_scheduler()
        FakeLink(scheduler).start()
        socket, _ = converse(scheduler)
        socket.say_raw(**frame)
        await asyncio.sleep(0.1)
        (error,) = socket.of("error")
        assert (error.get("seq"), error.get("field")) == (seq, field), error
        assert error["code"] == "invalid_request"
        assert len(error["message"]) < 300
        socket.say(type="generate", seq=5, prompt="still here")
        await asyncio.sleep(1)
        assert socket.shown == [5]

    scenario()
