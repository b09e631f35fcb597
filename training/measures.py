"""Figures of sets of pictures: the judge's answers, Frechet distance, diversity, sharpness, facing, intervals.

Pictures are (n, h, w, 3) bytes; nothing here is FID, whose name belongs to InceptionV3's features (`papers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.concepts import NAMES
from training.judge import COUNTS, DualEncoder
from training.latents import PALETTE

Pictures = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


@torch.no_grad()
def look(judge: DualEncoder, pictures: Pictures, batch: int = 64) -> Tensor:
    """The judge's features (n, 128) of pictures."""
    seen = [
        judge.pictures(torch.from_numpy(pictures[i : i + batch]).permute(0, 3, 1, 2).float() / 255)
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(seen)


@torch.no_grad()
def things(judge: DualEncoder, features: Tensor, most: int = 1) -> list[list[int]]:
    """The likeliest `most` things in each picture, as concepts; `len(NAMES)` is nothing."""
    answers: list[list[int]] = judge.ask(features, [*NAMES, COUNTS[0]]).topk(most).indices.tolist()
    return answers


@torch.no_grad()
def counts(judge: DualEncoder, features: Tensor) -> list[int]:
    """How many things the judge sees, 0 to 3."""
    answers: list[int] = judge.ask(features, COUNTS).argmax(1).tolist()
    return answers


def corner_colour(picture: Pictures, edge: int = 20) -> int:
    """The named colour nearest to the median of a picture's four corners: the background, whoever judges."""
    x = picture.astype(np.float32) / 255
    corners = [x[i, j].reshape(-1, 3) for i in _ends(edge) for j in _ends(edge)]
    shade = np.median(np.concatenate(corners), 0)
    return int(np.linalg.norm(PALETTE - shade, axis=1).argmin())


def _ends(edge: int) -> tuple[slice, slice]:
    return slice(0, edge), slice(-edge, None)


def frechet(one: Floats, other: Floats) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) of features (n, d): Heusel et al., arXiv 1706.08500, equation 6.

    The trace of the product's root is the sum of the roots of its eigenvalues. With few pictures it is biased
    upwards: compare only sets of one size.
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    values = np.linalg.eigvals(np.atleast_2d(c1) @ np.atleast_2d(c2))
    root = np.sqrt(values.real.clip(0)).sum()
    shift = ((first.mean(0) - second.mean(0)) ** 2).sum()
    return float(shift + np.trace(np.atleast_2d(c1 + c2)) - 2 * root)


def feature_diversity(features: Tensor) -> float:
    """1 - cosine between the judge's features of seeds (prompts, seeds, 128) of one prompt, mean over pairs."""
    x = torch.nn.functional.normalize(features, dim=-1)
    alike = x @ x.mT
    seeds = x.shape[1]
    return float(1 - (alike.sum((1, 2)) - seeds).mean() / (seeds * (seeds - 1)))


def detail(pictures: Pictures) -> float:
    """High-frequency energy: the mean absolute Laplacian of the luma at full size, in grey levels."""
    total = 0.0
    for picture in pictures:
        x = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        inner = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
        total += float(np.abs(inner).mean())
    return total / len(pictures)


def facing(picture: Pictures, left: Pictures, right: Pictures) -> float:
    """-1 for a picture of `left`, 1 of `right`, its mirror image; 0 for a mixture of both."""
    x, a, b = (each.astype(np.float32) for each in (picture, left, right))
    return float((((x - a) ** 2).mean() - ((x - b) ** 2).mean()) / ((a - b) ** 2).mean())


def wilson(wins: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share (95% by default)."""
    if n == 0:
        return 0.0, 1.0
    share, square = wins / n, z * z
    middle = (share + square / (2 * n)) / (1 + square / n)
    reach = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def clopper_pearson(wins: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of a share: where either tail holds (1 - level) / 2."""
    tail = (1 - level) / 2
    low = 0.0 if wins == 0 else _solve(lambda p: at_least(wins, n, p) - tail)
    high = 1.0 if wins == n else _solve(lambda p: tail - (1 - at_least(wins + 1, n, p)))
    return low, high


def at_least(wins: int, n: int, share: float) -> float:
    """P(X >= wins) of a binomial X, 0 < share < 1, in logarithms: thousands of votes are no problem."""
    all_ways = math.lgamma(n + 1)
    return sum(
        math.exp(
            all_ways
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(share)
            + (n - k) * math.log1p(-share)
        )
        for k in range(wins, n + 1)
    )


def _solve(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def share(right: Sequence[bool]) -> dict[str, Any]:
    """A share with its number of cases and its 95% Wilson interval."""
    low, high = wilson(sum(right), len(right))
    return {
        "n": len(right),
        "share": round(sum(right) / max(len(right), 1), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def paired(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """How much larger the share of the second is, of the same cases, with its 95% interval.

    By the cases that came out differently, b and c of n: (c - b) / n. The interval is Agresti and Min's
    (Statistics in Medicine 24, 2005): with half a case added to each of the four kinds, (c - b) / n, give or take
    1.96 sqrt(b + c - (c - b)^2 / n) / n. So it has a width where no case differs.
    """
    n = len(before)
    changes = [int(b) - int(a) for a, b in zip(before, after, strict=True)]
    change = sum(changes)
    centre, variance = change / (n + 2), sum(map(abs, changes)) + 1 - change**2 / (n + 2)
    spread = 1.96 * math.sqrt(variance) / (n + 2)
    interval = [round(centre - spread, 4), round(centre + spread, 4)]
    difference = change / max(n, 1)
    return {"n": n, "difference": round(difference, 4), "interval": interval}
