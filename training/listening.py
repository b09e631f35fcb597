"""How the text encoder of `text` learns: captions that the grammar has read, its losses, the training."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from training import codes, loop
from training.captions import Captions, write
from training.codes import Target
from training.concepts import COLOUR_NAMES, NAMES, STYLE_NAMES
from training.optim import Muon, world
from training.text import (
    CHECKPOINT,
    accuracy,
    build,
    load,
    load_tokenizer,
    missed,
    prime,
    read,
    shipped,
    tokens,
)

CLOSE = 0.65
"""When the training begins to read texts at their full length, as the pipeline does."""
SHARPNESS = 14.0
"""Scale from code entries to logits."""
RECALL = 500
"""Steps after which it is looked anew what is missed."""
TOGETHER = 4
"""Batches that are written at a time and sorted by length, so that little of a batch is padding."""


def class_of(index: int | None, classes: int) -> int:
    """An index as a class, "none" being the last."""
    return classes if index is None else index


IGNORED = -100
"""Cross-entropy's own word for a row without a class."""


def code_loss(made: Tensor, targets: list[Target]) -> Tensor:
    """Cross-entropy per part of the code ("none" wins below one half), and the squared distance from the
    exact code, in which alone a group's things and colours are said."""
    none = made.new_full((len(made), 1), 0.5)
    ends = (
        *(codes.COLOUR_AT, codes.BACKGROUND_AT, codes.LAYOUT_AT, codes.STYLE_AT),
        codes.STYLE_AT + len(STYLE_NAMES),
    )
    concept, exact = made[:, : codes.THING], codes.encode(targets)
    label = torch.tensor([IGNORED if t.group else class_of(t.concept, len(NAMES)) for t in targets])
    entropy = F.cross_entropy(thing_logits(concept), label, reduction="sum") / len(made)
    parts: tuple[list[int | None], ...] = (
        [IGNORED if t.group else t.colour for t in targets],
        [t.background for t in targets],
        [codes.layout(t.group) for t in targets],
        [t.style for t in targets],
    )
    for start, end, said in zip(ends, ends[1:], parts, strict=False):
        label = torch.tensor([class_of(index, end - start) for index in said])
        logits = SHARPNESS * torch.cat([made[:, start:end], none], 1)
        entropy = entropy + F.cross_entropy(logits, label, reduction="sum") / len(made)
    rest = (made - exact)[:, codes.COLOUR_AT :].pow(2).sum(1).mean()
    return entropy + 4 * rest + 2 * distance(concept, exact[:, : codes.THING])


def thing_logits(made: Tensor) -> Tensor:
    """(n, things + 1) logits of (n, THING) patterns; nothing, the last, wins below one half of a thing's own."""
    none = made.new_full((len(made), 1), codes.LOUD)
    return torch.cat([2 * made @ codes.PATTERNS.T, none], 1)


def distance(made: Tensor, exact: Tensor) -> Tensor:
    """How far what was made is from what is exact: squared only when small, or far off it would drown all else."""
    return ((1 + (made - exact).pow(2).sum(-1)).sqrt() - 1).mean()


def slot_loss(made: Tensor, targets: list[Target]) -> Tensor:
    """The same of (B, 4, SLOT) slots: cross-entropy of thing, colour and place; the distance from what is exact."""
    rows = [[*target.group, *[None] * (codes.SLOTS - len(target.group))] for target in targets]
    flat = [placed for row in rows for placed in row]
    thing, colour, place = torch.split(made.flatten(0, 1), [codes.THING, len(COLOUR_NAMES), codes.PLACES], 1)
    none = made.new_full((len(thing), 1), SHARPNESS / 2)
    parts = (
        (thing_logits(thing), [placed and placed.concept for placed in flat]),
        (torch.cat([SHARPNESS * colour, none], 1), [placed and placed.colour for placed in flat]),
        (torch.cat([SHARPNESS * place, none], 1), [placed and placed.place for placed in flat]),
    )
    entropy = made.new_zeros(())
    for logits, said in parts:
        label = torch.tensor([class_of(index, logits.shape[1] - 1) for index in said])
        entropy = entropy + F.cross_entropy(logits, label)
    return 2 * entropy + 2 * distance(made, codes.slots(targets))


class Writers:
    """Heaps of captions with their meanings, by number and share of plain groups; for a card, written ahead."""

    def __init__(self, size: int, seed: int, ahead: int) -> None:
        """Heaps of `size`; `ahead` of them are written by other processes, none of them if it is 0."""
        self.size, self.seed = size, seed
        self.pool = ProcessPoolExecutor(ahead, multiprocessing.get_context("spawn")) if ahead else None
        self.ahead, self.ordered = ahead, dict[int, Future[tuple[list[str], list[Target]]]]()

    def heap(self, number: int, plain: float, missed: Sequence[str] = ()) -> tuple[list[str], list[Target]]:
        """The same for the same arguments; those `missed` come more often (written ahead: a little later)."""
        if self.pool is None:
            return write(self.seed, number, self.size, plain, missed)
        for other in range(number, number + self.ahead + 1):
            if other not in self.ordered:
                self.ordered[other] = self.pool.submit(write, self.seed, other, self.size, plain, missed)
        return self.ordered.pop(number).result()

    def close(self) -> None:
        """Send the other processes home."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


class Listener(loop.Fit):
    """`loop.Learner` of the text encoder."""

    def __init__(
        self,
        model: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        writers: Writers,
        rate: float = 1.0,
    ) -> None:
        """`rate` is of the full learning rates."""
        # Slots are small numbers among the states: at a higher rate they drown in noise.
        optimiser = Muon(
            model.named_parameters(),
            muon_rate=1.5e-3 * rate,
            adam_rate=1e-3 * rate,
            weight_decay=0.02,
            exclude=("embedding",),
        )
        super().__init__(model, optimiser)
        self.model, self.tokenizer, self.writers = model, tokenizer, writers
        self.missed: list[str] = []
        self.heap: tuple[int, list[list[tuple[str, Target]]]] = (-1, [])

    def step(self, index: int, fraction: float, rng: np.random.Generator) -> dict[str, float]:
        """See `loop.Learner`. Plain groups come first, full length last; what is missed comes more often."""
        number, turn = divmod(index, TOGETHER)
        if index and index % RECALL == 0:
            self.missed = missed(self.model, self.tokenizer)
        if self.heap[0] != number:
            begun = fraction * number * TOGETHER / max(index, 1)  # whichever step asks, after a pause too
            written = self.writers.heap(number, 0.5 * max(0.0, 1 - 2 * begun), self.missed)
            pairs = sorted(zip(*written, strict=True), key=lambda pair: len(pair[0]))
            share = len(pairs) // TOGETHER
            batches = [pairs[i * share : (i + 1) * share] for i in range(TOGETHER)]
            np.random.default_rng([number]).shuffle(batches)
            self.heap = number, batches
        texts, meant = zip(*self.heap[1][turn], strict=True)
        ids = tokens(self.tokenizer, list(texts), full=fraction > CLOSE).to(self.model.device)
        with torch.autocast(self.model.device.type, torch.bfloat16):
            made, slots = read(self.model, ids)
        loss = code_loss(made.cpu(), list(meant)) + slot_loss(slots.cpu(), list(meant))
        self.learn(loss, index, fraction)
        return {"loss": loss.item()}

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Learner`."""
        return {**super().state_dict(), "missed": self.missed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Learner`."""
        super().load_state_dict(state)
        self.missed = state["missed"]


def train(
    minutes: float = 20,
    steps: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    path: Path = CHECKPOINT,
    resume: bool = True,
    device: str = "cpu",
) -> dict[str, float]:
    """Train for `steps`, or as many as `minutes` hold (`loop.budget`); how held-out captions are read then.

    Goes on from the checkpoint at `path`; without one, from the shipped weights at a third of the learning rate. A
    `batch` is 192 captions, on a card 1024.
    """
    torch.manual_seed(seed)
    tokenizer = load_tokenizer()
    model = build(tokenizer).train()
    model.set_attn_implementation("eager")  # the fused kernel's backward is slow for short texts on a CPU
    rate = 0.35 if resume and shipped(model) else 1.0
    if rate == 1:
        prime(model, tokenizer)
    ahead = 0 if device == "cpu" else max(1, (os.cpu_count() or 1) - 1)
    rank, size = world()
    writers = Writers(TOGETHER * (batch or (192 if device == "cpu" else 1024)), seed * size + rank, ahead)
    listener = Listener(model.to(device), tokenizer, writers, rate)
    try:
        loop.train(listener, path, steps, minutes, seed, resume, device)
    finally:
        writers.close()
    found = accuracy(load(path).to(device), tokenizer, *Captions(7).batch(1000))
    tqdm.write("text held out: " + " ".join(f"{key} {value:.4f}" for key, value in found.items()))
    return found
