"""The Python client's typing stream, against real servers whose engine is a double."""

from __future__ import annotations

import asyncio

import pytest

from onestroke_client import (
    AsyncClient,
    ConnectionFailed,
    DrawingFailed,
    InvalidRequest,
    Picture,
    Stream,
    Superseded,
    TimedOut,
    Unauthorized,
)
from tests.clients.proxies import relaying
from tests.servers import Server


async def following(stream: Stream, last: str) -> list[Picture]:
    """All pictures until that of `last`."""
    pictures = []
    async with asyncio.timeout(30):
        async for picture in stream:
            pictures.append(picture)
            if picture.prompt == last:
                break
    return pictures


async def test_pictures_follow_the_keys_and_end_with_the_last_prompt(double_server: Server) -> None:
    text = "a red apple on a blue background"
    async with AsyncClient(double_server.url) as client, client.stream(steps=2) as stream:

        async def typist() -> None:
            for end in range(1, len(text) + 1):
                await stream.type(text[:end])
                await asyncio.sleep(0.02)

        typing = asyncio.create_task(typist())
        pictures = await following(stream, text)
        await typing
    lengths = [len(picture.prompt) for picture in pictures]
    assert lengths == sorted(set(lengths)), "never an older picture after a newer one"
    assert len(pictures) > 3
    assert {picture.steps for picture in pictures} == {2}
    assert len({picture.seed for picture in pictures}) == 1


async def test_how_a_prompt_was_read_is_told(double_server: Server) -> None:
    async with AsyncClient(double_server.url) as client, client.stream() as stream:
        for drawn in (
            await stream.draw("an elphant, né à 東京"),
            await client.generate("an elphant, né à 東京"),
        ):
            assert drawn.prompt == "an elphant, né à 東京"
            assert drawn.revised_prompt == "an elephant, né à 東京"
        for drawn in (await stream.draw("a hen"), await client.generate("a hen")):
            assert drawn.revised_prompt is None


async def test_draw_waits_for_its_own_picture(double_server: Server) -> None:
    async with AsyncClient(double_server.url) as client, client.stream(format="png", seed=3) as stream:
        picture = await stream.draw("a hen", size="512x512", seed=9)
        assert (picture.prompt, picture.seed, picture.content_type) == ("a hen", 9, "image/png")
        assert picture.data.startswith(b"\x89PNG")
        await stream.type("   ")
        assert (await stream.draw("a fox")).seed == 3


async def test_a_prompt_that_is_typed_over_is_superseded(double_server: Server) -> None:
    async with AsyncClient(double_server.url) as client, client.stream() as stream:
        await stream.type("slow one")
        await asyncio.sleep(0.1)
        over = asyncio.create_task(stream.draw("slow two"))
        await asyncio.sleep(0.05)
        assert (await stream.draw("three")).prompt == "three"
        with pytest.raises(Superseded):
            await over


async def test_a_bad_prompt_is_a_typed_error_and_the_stream_goes_on(double_server: Server) -> None:
    async with AsyncClient(double_server.url) as client, client.stream() as stream:
        with pytest.raises(InvalidRequest) as refused:
            await stream.draw("x", steps=0)
        assert refused.value.field == "steps"
        await stream.type("nan")
        with pytest.raises(DrawingFailed):
            await following(stream, "nan")
        with pytest.raises(InvalidRequest):
            await stream.draw("x", size="wide")
        assert (await stream.draw("a fox")).prompt == "a fox"


async def test_waiting_ends_with_its_time_out(double_server: Server) -> None:
    async with AsyncClient(double_server.url, timeout=5) as client, client.stream() as stream:
        with pytest.raises(TimedOut):
            await stream.draw("slow fox", timeout=0.1)
        assert (await stream.draw("afterwards")).prompt == "afterwards"


async def test_a_broken_connection_is_opened_again_and_the_newest_prompt_sent(double_server: Server) -> None:
    async with (
        relaying(double_server.url) as relay,
        AsyncClient(relay.url) as client,
        client.stream() as stream,
    ):
        first = await stream.draw("before")
        drawing = asyncio.create_task(stream.draw("slow fox"))
        await asyncio.sleep(0.2)
        relay.cut()
        assert (await drawing).seed == first.seed, "the seed outlives the connection"
        target, relay.target = relay.target, None
        relay.cut()
        await asyncio.sleep(0.1)
        await stream.type("lost")
        await stream.type("newest")
        relay.target = target
        assert [picture.prompt for picture in await following(stream, "newest")][-1] == "newest"
        assert relay.accepted == 3


async def test_a_draining_server_is_left_for_the_next_and_its_last_picture_still_arrives(
    double_server: Server,
) -> None:
    leaving = Server("--drain-notice", "0.3", double=True).until_ready()
    async with relaying(leaving.url) as relay, AsyncClient(relay.url) as client, client.stream() as stream:
        accepted = asyncio.create_task(stream.draw("slow fox"))
        await asyncio.sleep(0.1)
        leaving.terminate()
        await asyncio.sleep(0.1)
        relay.target = double_server.url
        assert (await accepted).prompt == "slow fox"
        assert (await stream.draw("elsewhere")).prompt == "elsewhere"
        await asyncio.to_thread(leaving.rest_of_log)
        assert (await stream.draw("still there")).prompt == "still there"


async def test_nobody_there_is_a_connection_that_failed() -> None:
    async with AsyncClient("http://127.0.0.1:9", timeout=0.3) as client:
        with pytest.raises(ConnectionFailed, match="no stream from"):
            await client.stream().__aenter__()


async def test_time_runs_out_while_the_server_is_away(double_server: Server) -> None:
    async with (
        relaying(double_server.url) as relay,
        AsyncClient(relay.url, timeout=1) as client,
        client.stream() as stream,
    ):
        relay.target = None
        relay.cut()
        await stream.type("a fox")
        with pytest.raises(TimedOut):
            await following(stream, "a fox")


async def test_a_key_opens_the_stream_and_a_wrong_one_is_said(narrow_server: Server) -> None:
    async with AsyncClient(narrow_server.url, api_key="secret") as client, client.stream() as stream:
        assert await stream.draw("a fox")
    async with AsyncClient(narrow_server.url, api_key="wrong") as client:
        with pytest.raises(Unauthorized):
            await client.stream().__aenter__()


async def test_closing_ends_the_iteration_and_leaves_no_task(double_server: Server) -> None:
    before = asyncio.all_tasks()
    async with AsyncClient(double_server.url) as client:
        async with client.stream() as stream:
            reading = asyncio.create_task(following(stream, "never"))
            drawing = asyncio.create_task(stream.draw("slow fox"))
            await asyncio.sleep(0.1)
        assert await reading == []
        with pytest.raises(ConnectionFailed):
            await drawing
        with pytest.raises(ConnectionFailed):
            await stream.type("too late")
    assert asyncio.all_tasks() == before
