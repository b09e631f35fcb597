"""One picture per call, by the Python client, from a real server whose engine is a double."""

from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from onestroke_client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DrawingFailed,
    InvalidRequest,
    OnestrokeError,
    Overloaded,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from onestroke_client.client import Patience
from onestroke_client.errors import from_answer
from tests.clients.proxies import relaying
from tests.servers import Server


def test_a_picture_comes_with_what_is_worth_knowing(double_server: Server, tmp_path: Path) -> None:
    with Client(double_server.url) as client:
        picture = client.generate("a red fox", seed=7, steps=2, format="png", size="512x512")
    assert (picture.prompt, picture.seed, picture.steps, picture.size) == ("a red fox", 7, 2, (512, 512))
    assert picture.content_type == "image/png"
    assert set(picture.timings) == {"queue", "encode", "step", "decode", "image"}
    assert picture.timings["step"] > 10
    assert not picture.truncated
    assert picture.batch_size == 1
    with Image.open(picture.save(tmp_path / "fox.png")) as image:
        assert (image.format, image.size) == ("PNG", picture.size)


async def test_the_async_client_draws_the_same_and_many_at_once(double_server: Server) -> None:
    with Client(double_server.url) as client:
        alone = await asyncio.to_thread(client.generate, "a fox", seed=1)
    async with AsyncClient(double_server.url) as many:
        pictures = await asyncio.gather(*(many.generate("a fox", seed=1) for _ in range(4)))
    assert {picture.data for picture in pictures} == {alone.data}
    assert Image.open(io.BytesIO(alone.data)).format == "JPEG"


@pytest.mark.parametrize(
    ("asked", "error", "field"),
    [
        ({"prompt": " "}, InvalidRequest, "prompt"),
        ({"prompt": "x", "steps": 0}, InvalidRequest, "steps"),
        ({"prompt": "x", "colour": "red"}, InvalidRequest, "colour"),
        ({"prompt": "nan"}, DrawingFailed, None),
    ],
)
def test_what_cannot_be_drawn_is_a_typed_error_that_names_the_field(
    double_server: Server, asked: dict[str, Any], error: type[OnestrokeError], field: str | None
) -> None:
    with Client(double_server.url) as client, pytest.raises(error) as raised:
        client.generate(**asked)
    assert raised.value.field == field
    assert raised.value.code


def test_a_call_that_takes_too_long_is_timed_out(double_server: Server) -> None:
    with Client(double_server.url) as client, pytest.raises(TimedOut):
        client.generate("slow fox", timeout=0.2)


async def test_a_full_server_is_asked_again_after_its_retry_after(narrow_server: Server) -> None:
    prompts = [f"slow {i}" for i in range(5)]
    async with AsyncClient(narrow_server.url, api_key="secret", retries=0) as hasty:
        answers = await asyncio.gather(*map(hasty.generate, prompts), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert refused
    assert refused[0].retry_after
    assert refused[0].retry_after >= 1
    async with AsyncClient(narrow_server.url, api_key="secret", retries=20) as patient:
        assert len(await asyncio.gather(*map(patient.generate, prompts))) == len(prompts)


def test_a_wrong_key_is_said(narrow_server: Server) -> None:
    with Client(narrow_server.url, api_key="wrong") as client, pytest.raises(Unauthorized):
        client.generate("a fox")


async def test_a_connection_that_breaks_is_tried_again(double_server: Server) -> None:
    async with relaying(double_server.url) as relay, AsyncClient(relay.url) as client:
        call = asyncio.create_task(client.generate("slow fox"))
        await asyncio.sleep(0.2)
        relay.cut()
        assert (await call).prompt == "slow fox"
        assert relay.accepted == 2


def test_no_server_is_said_after_the_last_retry() -> None:
    with (
        Client("http://127.0.0.1:9", retries=1) as client,
        pytest.raises(ConnectionFailed, match="no server"),
    ):
        client.generate("a fox")


def test_a_retry_after_beyond_the_time_allowed_is_not_waited_for() -> None:
    patience = Patience(timeout=5, retries=3)
    assert patience.pause(Overloaded("full", retry_after=2.0)) == 2.0
    with pytest.raises(Overloaded):
        patience.pause(Overloaded("full", retry_after=60.0))
    with pytest.raises(InvalidRequest):
        patience.pause(InvalidRequest("bad"))


def test_pauses_grow_and_end_with_the_retries() -> None:
    patience = Patience(timeout=60, retries=3)
    pauses = [patience.pause(Unavailable("soon")) for _ in range(3)]
    assert pauses[0] < 0.4
    assert pauses[2] > 0.4
    with pytest.raises(Unavailable):
        patience.pause(Unavailable("soon"))


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (503, {}, None, Unavailable),
        (502, {}, "<html>", Unavailable),
        (500, {}, None, Unavailable),
        (500, {}, {"error": {"code": "generation_failed", "message": "not finite"}}, DrawingFailed),
        (429, {"retry-after": "3"}, None, Overloaded),
        (503, {}, {"error": {"code": "worker_died", "message": "twice"}}, DrawingFailed),
        (504, {}, {"error": {"code": "deadline_exceeded", "message": "late"}}, DrawingFailed),
        (413, {}, {"error": {"code": "body_too_large", "message": "large"}}, InvalidRequest),
    ],
)
def test_every_answer_has_its_error_also_a_balancers(
    status: int, headers: dict[str, str], body: object, kind: type[OnestrokeError]
) -> None:
    error = from_answer(status, httpx.Headers(headers), body)
    assert type(error) is kind
    assert error.retry_after == (3 if headers else None)


def test_time_outs_cover_the_whole_call() -> None:
    patience = Patience(timeout=0.05, retries=3)
    time.sleep(0.06)
    assert patience.timeouts().read == 0.001
