"""Parallel decoding, Muse's rule: predict every masked token, keep those that the network is sure of.

A picture starts as nothing but masks. In every step each masked token is drawn from the network's distribution;
then the least confident are masked again, their number falling along a cosine. Confidence is log p + temperature *
Gumbel, the temperature falling to 0. All of it is per row: rows at different steps of different schedules share
one call. The arithmetic and the order of the draws are AmusedScheduler's, so that a row draws what diffusers draws
from the same CPU generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from onestroke.errors import ModelError

SMALLEST = 1e-20
"""What AmusedScheduler clamps probabilities and draws to, before it takes their logarithm."""


class Rule(NamedTuple):
    """What a model's scheduler configuration says of its steps; see `rule_of`."""

    mask: int
    schedule: str = "cosine"
    ramp: bool = False


class Step(NamedTuple):
    """One step: `masked` is what stays masked after it, as a share of the tokens that were masked at the start.

    `guidance` is the share of what the request's guidance scale adds to 1. `resampled` is the share of all tokens
    that is masked at random before the step; tokens are drawn from the `top_k` likeliest, 0: from all.
    """

    masked: float
    temperature: float
    guidance: float = 1.0
    resampled: float = 0.0
    top_k: int = 0


class Second(NamedTuple):
    """A picture's super-resolution: the step it begins at, its tokens (h, w) then, how much of them is masked."""

    begins: int
    tokens: torch.Tensor
    share: float = 1.0


def rule_of(config: Mapping[str, Any]) -> Rule:
    """From the configuration of an AmusedScheduler; "guidance_schedule": "linear" in it is the paper's ramp.

    Raises ModelError for values that are not known.
    """
    kind = config.get("_class_name", "AmusedScheduler")
    schedule, guidance = config.get("masking_schedule", "cosine"), config.get("guidance_schedule", "constant")
    if kind != "AmusedScheduler" or not isinstance(config.get("mask_token_id"), int):
        raise ModelError(f"its scheduler is a {kind}: Muse needs an AmusedScheduler with its mask_token_id")
    if schedule not in ("cosine", "linear"):
        raise ModelError(f"its masking_schedule is {schedule!r}: cosine and linear are known")
    if guidance not in ("constant", "linear"):
        raise ModelError(f"its guidance_schedule is {guidance!r}: constant and linear are known")
    return Rule(config["mask_token_id"], schedule, guidance == "linear")


@lru_cache(maxsize=512)
def steps_of(rule: Rule, steps: int) -> tuple[Step, ...]:
    """`steps` steps; after the last nothing is masked. In fp32, as AmusedScheduler computes them.

    With the ramp, guidance rises linearly from none (1) in the first step to the request's scale in the last.
    """
    if not steps:
        return ()
    done = torch.arange(1, steps + 1) / steps
    masked = torch.cos(done * math.pi / 2) if rule.schedule == "cosine" else 1 - done
    masked[-1] = 0.0
    temperatures = torch.linspace(2, 0, steps)
    guidance = torch.linspace(0, 1, steps) if rule.ramp and steps > 1 else torch.ones(steps)
    columns = (masked.tolist(), temperatures.tolist(), guidance.tolist())
    return tuple(Step(*entries) for entries in zip(*columns, strict=True))


def first_stage(steps: int) -> int:
    """How many of `steps` draw the small picture where super-resolution follows: three of four, as in the paper.

    None of a single step: each stage needs one.
    """
    return steps - max(1, round(steps / 4))


class Draws:
    """One row's random numbers, on the CPU in fp32, as torch.multinomial and AmusedScheduler draw them.

    A row therefore depends on its seed alone, not on its neighbours, its bucket or its device.
    """

    __slots__ = ("_generator",)

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def state(self) -> torch.Tensor:
        """Where it stands: what was drawn since is drawn again once this is set."""
        return self._generator.get_state()

    @state.setter
    def state(self, state: torch.Tensor) -> None:
        self._generator.set_state(state)

    def exponential(self, *shape: int) -> torch.Tensor:
        """What torch.multinomial divides probabilities by: the largest quotient is a draw from them."""
        return torch.empty(shape).exponential_(1, generator=self._generator)

    def choice(self, share: float, size: int) -> torch.Tensor:
        """Which of `size` tokens: `share` of them, at least one."""
        return torch.randperm(size, generator=self._generator)[: max(1, round(share * size))]

    def uniform(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape).uniform_(0, 1, generator=self._generator)


def remask(
    tokens: Sequence[torch.Tensor], steps: Sequence[Step], draws: Sequence[Draws], mask: int
) -> list[torch.Tensor]:
    """What the network is shown of each row's tokens (h, w): those that its step resamples are masked."""
    shown = []
    for each, step, drawn in zip(tokens, steps, draws, strict=True):
        if step.resampled:
            chosen = drawn.choice(step.resampled, each.numel()).to(each.device)
            each = each.flatten().index_fill(0, chosen, mask).view_as(each)
        shown.append(each)
    return shown


def unmask(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    steps: Sequence[Step],
    shares: Sequence[float],
    draws: Sequence[Draws],
    mask: int,
) -> torch.Tensor:
    """The tokens (n, h, w) after each row's step, from the network's fp32 logits (n, codebook, h, w).

    `shares` says how much of each picture was masked at its start: 1.0, or less where part of it was given.
    """
    n, codebook, height, width = logits.shape
    size, device = height * width, logits.device
    exponential = torch.stack([each.exponential(size, codebook) for each in draws]).to(device)
    uniform = torch.stack([each.uniform(size) for each in draws]).to(device)
    probabilities = _likeliest(logits.flatten(2).mT, steps).softmax(-1)
    tokens = tokens.flatten(1)
    unknown = tokens == mask
    filled = torch.where(unknown, (probabilities / exponential).argmax(-1), tokens)
    chosen = probabilities.gather(-1, filled[..., None])[..., 0]
    # A token that was given stays, whatever the network thinks of it.
    chosen = torch.where(unknown, chosen, torch.finfo(chosen.dtype).max)
    gumbel = -torch.log((-torch.log(uniform.clamp(SMALLEST))).clamp(SMALLEST))
    temperature = torch.tensor([[step.temperature] for step in steps], device=device)
    confidence = torch.log(chosen.clamp(SMALLEST)) + temperature * gumbel
    least = confidence.sort(-1).values.gather(1, _to_mask(unknown, steps, shares))
    masked: torch.Tensor = torch.where(confidence < least, mask, filled)
    return masked.view(n, height, width)


def _likeliest(logits: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    """Logits (n, h*w, codebook) without all but the `top_k` likeliest tokens, for rows whose step says so."""
    if not any(step.top_k for step in steps):
        return logits
    kept = logits.clone()
    for row, step in zip(kept, steps, strict=True):
        if step.top_k:
            row.masked_fill_(row < row.topk(step.top_k, -1).values[:, -1:], -torch.inf)
    return kept


def _to_mask(unknown: torch.Tensor, steps: Sequence[Step], shares: Sequence[float]) -> torch.Tensor:
    """How many tokens each row masks again (n, 1): fewer than it had, at least one, none in its last step."""
    share = torch.tensor([[share] for share in shares], device=unknown.device)
    masked = torch.tensor([[step.masked] for step in steps], device=unknown.device)
    count = (unknown.shape[1] * (share * masked)).floor().long()
    count = torch.minimum(count, unknown.sum(-1, keepdim=True) - 1).clamp(min=1)
    return torch.where(masked > 0, count, 0)
