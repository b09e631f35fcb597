"""The naive server: one picture at a time, in the order of asking."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from benchmarks.peers.naive import create_app


class Call:
    """Draws nothing, slowly; `most` is the largest number of calls at a time."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.threads: set[int] = set()
        self.most = self._now = 0

    def draw(self, prompts: Sequence[str]) -> list[bytes]:
        self._now += 1
        self.most = max(self.most, self._now)
        time.sleep(0.01)
        self.prompts += prompts
        self.threads.add(threading.get_ident())
        self._now -= 1
        return [prompt.encode() for prompt in prompts]

    def warm_up(self, batches: Sequence[int], prompts: Callable[[int], list[str]]) -> None:
        self.draw(prompts(1))


async def test_it_draws_one_at_a_time_in_order_and_on_one_thread_that_was_warmed_up() -> None:
    call: Any = Call()
    app = create_app(call)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://naive") as client:
        asked = [f"prompt {i}" for i in range(4)]
        answers = await asyncio.gather(
            *(client.post("/generate", json={"prompt": prompt}) for prompt in asked)
        )
    assert [answer.content.decode() for answer in answers] == asked
    assert {answer.headers["content-type"] for answer in answers} == {"image/jpeg"}
    assert sorted(call.prompts[1:]) == asked
    assert call.most == 1
    assert len(call.threads) == 1
