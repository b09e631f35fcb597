"""The real server on the real embedded model, used as its users use it."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
from typing import Any

import httpx
import numpy as np
import pytest
import websockets
from PIL import Image

from tests.servers import Server

pytestmark = pytest.mark.integration

WORDS = "red apple on a blue background"


async def picture(socket: Any, seq: int) -> tuple[dict[str, Any], bytes]:
    """The picture of `seq`; earlier ones are looked at and passed over."""
    seen = -1
    while True:
        message = await asyncio.wait_for(socket.recv(), 60)
        if isinstance(message, str):
            assert json.loads(message)["type"] != "error", message
            continue
        (length,) = struct.unpack_from(">I", message)
        header = json.loads(message[4 : 4 + length])
        assert header["seq"] > seen, "what is delivered never goes backwards"
        seen = header["seq"]
        if seen == seq:
            return header, message[4 + length :]


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float64)


def counter(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


async def test_typing_ends_with_the_picture_of_the_whole_prompt_which_rest_draws_too(server: Server) -> None:
    async with websockets.connect(server.socket_url, max_size=None) as socket:
        await socket.send(json.dumps({"type": "hello", "format": "png"}))
        for seq in range(len(WORDS)):
            key = {"type": "generate", "seq": seq, "prompt": WORDS[: seq + 1], "seed": 11}
            await socket.send(json.dumps(key))
            await asyncio.sleep(1 / 8)
        header, data = await picture(socket, len(WORDS) - 1)
    assert header["prompt"] == WORDS
    assert pixels(data).std() > 20
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        query = {"prompt": WORDS, "seed": 11, "format": "png"}
        rest = await client.get("/v1/generate", params=query)
    assert np.abs(pixels(rest.content) - pixels(data)).max() <= 8, (
        "another bucket may round differently, no more"
    )


async def test_same_request_same_picture_and_another_seed_another(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def draw(seed: int) -> bytes:
            query = {"prompt": "a panda", "seed": seed, "format": "png"}
            return (await client.get("/v1/generate", params=query)).content

        first, again, other = await draw(1), await draw(1), await draw(2)
    assert first == again
    assert np.abs(pixels(first) - pixels(other)).mean() > 4


async def test_the_picture_carries_its_request(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        answer = await client.get("/v1/generate", params={"prompt": "a fox", "seed": 3, "format": "png"})
    info = Image.open(io.BytesIO(answer.content)).info["parameters"]
    assert info.startswith("a fox\n")
    assert "Seed: 3" in info


async def test_a_four_step_row_and_one_step_keys_share_passes(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        before = counter((await client.get("/metrics")).text, "onestroke_mixed_passes_total")
        long = {"prompt": "a fox", "steps": 4}
        calls = [client.get("/v1/generate", params=long)]
        calls += [client.get("/v1/generate", params={"prompt": f"a hen {i}"}) for i in range(6)]
        answers = await asyncio.gather(*calls)
        assert {answer.status_code for answer in answers} == {200}
        after = counter((await client.get("/metrics")).text, "onestroke_mixed_passes_total")
    assert after > before


async def test_slips_are_put_right_and_told(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

        async def draw(prompt: str) -> httpx.Response:
            query = {"prompt": prompt, "seed": 5, "format": "png"}
            return (await client.get("/v1/generate", params=query)).raise_for_status()

        slipped, right = await draw("a purpel elphant"), await draw("a purple elephant")
    assert slipped.headers["x-revised-prompt"] == "a%20purple%20elephant"
    assert "x-revised-prompt" not in right.headers
    assert (pixels(slipped.content) == pixels(right.content)).all()


async def test_a_prompt_past_the_encoders_length_is_drawn_and_said(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        answer = await client.get("/v1/generate", params={"prompt": "a fox " * 200})
        assert answer.status_code == 200
        assert answer.headers["x-prompt-truncated"] == "true"
        short = await client.get("/v1/generate", params={"prompt": "a fox"})
        assert short.headers["x-prompt-truncated"] == "false"
