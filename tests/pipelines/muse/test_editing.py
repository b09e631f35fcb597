"""Editing: what is not masked stays, a mask-free edit is the paper's rule, and bad pictures are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from onestroke.core import GenerationRequest
from onestroke.errors import InvalidRequest
from onestroke.pipelines.images import Pixels
from onestroke.pipelines.muse.editing import edit, inpaint, outpaint
from onestroke.pipelines.muse.pipeline import MusePipeline, MuseRow
from tests.pipelines.tiny_models import SIZE

Ask = Callable[..., GenerationRequest]


@pytest.fixture(scope="module")
def image() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def left_half() -> Any:
    return np.arange(SIZE) < SIZE // 2 + np.zeros((SIZE, 1))


def run(pipeline: MusePipeline, rows: list[MuseRow]) -> list[torch.Tensor]:
    pipeline.encode(rows)
    while running := [row for row in rows if not row.finished]:
        assert not pipeline.step(running).failed
    return [row.tokens for row in rows]


def test_what_is_not_masked_stays_and_all_that_is_masked_is_painted(
    pipeline32: MusePipeline, ask: Ask, image: Pixels
) -> None:
    row = pipeline32.prepare(0, ask(steps=5, guidance_scale=5.0))
    inpaint(pipeline32, row, image, left_half())
    given = pipeline32.codec.encode(image)
    columns = given.shape[1] // 2
    assert (row.tokens[:, :columns] == pipeline32.rule.mask).all()
    assert row.share == 0.5
    (drawn,) = run(pipeline32, [row])
    assert torch.equal(drawn[:, columns:], given[:, columns:])
    assert not torch.equal(drawn[:, :columns], given[:, :columns])
    assert (drawn < pipeline32.rule.mask).all()


def test_outpainting_keeps_the_picture_and_paints_around_it(
    pipeline32: MusePipeline, ask: Ask, image: Pixels
) -> None:
    row, same = pipeline32.prepare(0, ask()), pipeline32.prepare(1, ask())
    part = image[: SIZE // 2, : SIZE // 4]
    outpaint(pipeline32, row, part, left=SIZE // 2, top=SIZE // 4)
    masked = row.tokens == pipeline32.rule.mask
    inside = torch.zeros_like(masked)
    inside[4:12, 8:12] = True  # four pixels to a token
    assert torch.equal(masked, ~inside)
    canvas = np.pad(part, ((16, 16), (32, 16), (0, 0)), mode="edge")
    inpaint(pipeline32, same, canvas, np.repeat(np.repeat(masked.numpy(), 4, 0), 4, 1))
    first, second = run(pipeline32, [row, same])
    assert torch.equal(first, second)


def resampled(
    pipeline: MusePipeline, row: MuseRow, image: Pixels, steps: int, guidance: float
) -> torch.Tensor:
    """The paper's rule in plain words, alone."""
    assert row.embedding is not None
    assert row.negative is not None
    generator = torch.Generator().manual_seed(row.request.seed)
    tokens = pipeline.codec.encode(image)
    for _ in range(steps):
        chosen = torch.randperm(tokens.numel(), generator=generator)[: round(0.08 * tokens.numel())]
        shown = tokens.flatten().clone()
        shown[chosen] = pipeline.rule.mask
        with torch.inference_mode():
            without, with_text = (
                pipeline.transformer([shown.view_as(tokens)] * 2, [each] * 2, [row.conditions] * 2)[0]
                for each in (row.negative, row.embedding)
            )
        logits = (without + guidance * (with_text - without)).flatten(1).T
        best = logits.topk(3)
        likeliest = torch.full_like(logits, -torch.inf).scatter(1, best.indices, best.values)
        drawn = torch.multinomial(likeliest.softmax(-1), 1, generator=generator)[:, 0]
        torch.rand(tokens.numel(), generator=generator)  # for confidences, which do not matter here
        shown[chosen] = drawn[chosen]
        tokens = shown.view_as(tokens)
    return tokens


def test_a_mask_free_edit_is_the_papers_rule_in_any_company(
    pipeline32: MusePipeline, ask: Ask, image: Pixels
) -> None:
    me = ask("a dog", seed=3, steps=20, guidance_scale=4.0)
    rows = [
        pipeline32.prepare(0, ask(steps=7)),
        pipeline32.prepare(1, me),
        pipeline32.prepare(2, ask(steps=9)),
    ]
    edit(pipeline32, rows[1], image)
    inpaint(pipeline32, rows[2], image, left_half())
    before = rows[1].tokens
    pipeline32.encode(rows)
    pipeline32.step(rows)
    assert 0 < (rows[1].tokens != before).sum() <= round(0.08 * before.numel())
    mine = run(pipeline32, rows)[1]
    assert torch.equal(mine, resampled(pipeline32, rows[1], image, 20, 4.0))


def test_what_cannot_be_edited_names_its_field(pipeline32: MusePipeline, ask: Ask, image: Pixels) -> None:
    row = pipeline32.prepare(0, ask())
    everything, nothing = np.ones((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), bool)
    small: Pixels = image[::2, ::2]
    attempts: list[tuple[str, Callable[[], None]]] = [
        ("image", lambda: inpaint(pipeline32, row, small, everything)),
        ("image", lambda: inpaint(pipeline32, row, image[..., 0], everything)),
        ("image", lambda: edit(pipeline32, row, image.astype(np.float32))),  # type: ignore[arg-type]
        ("mask", lambda: inpaint(pipeline32, row, image, everything[::2])),
        ("mask", lambda: inpaint(pipeline32, row, image, nothing)),
        ("image", lambda: outpaint(pipeline32, row, image, 0, 0)),
        ("image", lambda: outpaint(pipeline32, row, small, SIZE, 0)),
        ("image", lambda: outpaint(pipeline32, row, small, 0, -1)),
    ]
    for field, attempt in attempts:
        with pytest.raises(InvalidRequest) as refused:
            attempt()
        assert refused.value.field == field
    assert (row.tokens == pipeline32.rule.mask).all()
