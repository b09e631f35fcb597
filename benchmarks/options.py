"""What can be asked of a run, and the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

PARTS = ("pipeline", "http", "socket", "typists", "naive", "litserve", "roofline")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What is measured; the same words as `onestroke serve` takes, for ours and for every peer."""

    model: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` is one window of typing, warm-up excluded; `repeats` the windows that a median is taken of.

    `rounds`: how often the blocks of one comparison take turns, so that a machine that changes its speed
    changes it for all of them. `block_seconds`: about how long one block of repeated calls lasts.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    parts: tuple[str, ...] = PARTS
    seed: int = 20_250
    seconds: float = 5.0
    repeats: int = 3
    rounds: int = 5
    block_seconds: float = 0.8
    batches: tuple[int, ...] = (1, 2, 4, 8)
    typists: tuple[int, ...] = (1, 4, 16)
    keys_per_second: float = 8.0
    out: Path | None = None
    plot: bool = True

    def __contains__(self, part: str) -> bool:
        return part in self.parts

    def quick(self) -> Options:
        """Short windows, few rounds, two batches: good for a look, not for the record."""
        return replace(
            self,
            seconds=2.0,
            repeats=1,
            rounds=2,
            block_seconds=0.3,
            batches=(self.batches[0], self.batches[-1]),
        )
