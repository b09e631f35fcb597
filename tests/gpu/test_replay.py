"""Recorded verbs draw what eager ones draw, in every bucket, for any neighbours, for ever."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch

from onestroke.core import GenerationRequest
from onestroke.pipelines.pipeline import Pipeline
from onestroke.pipelines.rows import Row

Ask = Callable[..., GenerationRequest]

BOUND = 2
"""Levels of 255 between a replay and the eager run in float32: the same kernels, but their choice may differ."""
PASSES = int(os.environ.get("ONESTROKE_TEST_PASSES", "10000"))


def drawn(pipeline: Pipeline, requests: list[GenerationRequest]) -> list[np.ndarray]:
    rows = [pipeline.prepare(i, request) for i, request in enumerate(requests)]
    pipeline.encode(rows)
    live = rows
    while live:
        assert not pipeline.step(live).failed
        live = [row for row in live if not row.finished]
    found: dict[int, np.ndarray] = {}
    for batch, pictures in pipeline.decode(rows):
        found.update({row.id: pixels.astype(int) for row, pixels in zip(batch, pictures, strict=True)})
    return [found[i] for i in range(len(requests))]


def mixed(ask: Ask, n: int) -> list[GenerationRequest]:
    """Rows that differ in all but their number of steps, so that they stay together to the end."""
    samplers = ["euler_ancestral", "lcm", "ddim", "euler"]
    return [ask(f"thing {i}", seed=i, steps=2, sampler=samplers[i % 4]) for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8])
def test_a_replay_equals_the_eager_run_in_every_bucket(
    precise: Pipeline, eager: Pipeline, ask: Ask, n: int
) -> None:
    requests = mixed(ask, n)
    for one, other in zip(drawn(precise, requests), drawn(eager, requests), strict=True):
        assert np.abs(one - other).max() <= BOUND


def test_guided_rows_are_replayed_as_they_are_drawn_eagerly(
    precise: Pipeline, eager: Pipeline, ask: Ask
) -> None:
    requests = [ask(guidance_scale=3.0), ask(seed=2), ask(seed=3, guidance_scale=2.0, negative_prompt="blue")]
    for one, other in zip(drawn(precise, requests), drawn(eager, requests), strict=True):
        assert np.abs(one - other).max() <= BOUND


def test_what_was_listed_is_recorded_before_ready_and_nothing_later(
    fast: Pipeline, ask: Ask, device: str
) -> None:
    def recorded() -> list[list[int]]:
        return [each.graphed.recorded for each in (fast.text, fast.denoiser, fast.decoder)]

    before = recorded()
    if device == "cuda":
        assert before == [[fast.text.bucket], [1, 2, 4, 8], list(fast.decoder.batches)]
    drawn(fast, [ask(height=32)])
    assert recorded() == before, "another size is drawn eagerly"


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_neighbours_do_not_change_a_row_by_a_bit(fast: Pipeline, ask: Ask, n: int) -> None:
    me = ask("me", seed=5, steps=2, sampler="lcm")
    alone = drawn(fast, [me] * n)
    for place in (0, n - 1):
        requests = mixed(ask, n)
        requests[place] = me
        assert np.array_equal(drawn(fast, requests)[place], alone[place])


def test_a_row_that_is_not_finite_leaves_nothing_in_the_buffers(fast: Pipeline, ask: Ask) -> None:
    expected = drawn(fast, [ask(seed=i) for i in range(3)])
    rows: list[Row] = [fast.prepare(i, ask(str(i), seed=i)) for i in range(4)]
    fast.encode(rows)
    rows[3].latents = torch.full_like(rows[3].latents, float("nan"))
    assert [row.id for row in fast.step(rows).failed] == [3]
    found = drawn(fast, [ask(seed=i) for i in range(3)])
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.timeout(600)
def test_memory_does_not_grow(fast: Pipeline, ask: Ask, device: str) -> None:
    """10,000 passes on a card, of changing sizes and always new prompts; thirty on the CPU."""
    passes = PASSES if device == "cuda" else 30
    sizes = [1, 3, 8, 2, 5]

    def run(first: int, last: int) -> None:
        for i in range(first, last):
            n = sizes[i % len(sizes)]
            rows = [fast.prepare(j, ask(f"pass {i} row {j}", seed=j)) for j in range(n)]
            fast.encode(rows)
            fast.step(rows)
            list(fast.decode(rows))

    def held() -> int:
        gc.collect()
        if device == "cuda":
            torch.cuda.synchronize()
            return int(torch.cuda.memory_allocated())
        return sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor)

    fast.text.cache.max_bytes = fast.text.cache.nbytes = 0
    fast.text.cache.clear()
    run(0, 10)
    before = held()
    reserved = torch.cuda.memory_reserved() if device == "cuda" else 0
    run(10, passes)
    assert held() <= before
    if device == "cuda":
        assert torch.cuda.memory_reserved() <= reserved
