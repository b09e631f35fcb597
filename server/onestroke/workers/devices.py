"""Which devices get a worker, and how many threads each: `--device` spelt out, without asking torch."""

from __future__ import annotations

import os
from pathlib import Path

CARDS = Path("/proc/driver/nvidia/gpus")
"""The NVIDIA driver lists its cards here, a folder each."""


def spell_out(device: str) -> tuple[str, ...]:
    """A device per worker: "auto" is every NVIDIA card that may be used, or one device that the worker finds.

    "cuda:0,cuda:1" and "cpu,cpu" name theirs.
    """
    cards = cards_visible() if device == "auto" else 0
    return tuple(f"cuda:{i}" for i in range(cards)) if cards > 1 else tuple(device.split(","))


def cards_visible() -> int:
    """How many cards torch will see; CUDA_VISIBLE_DEVICES hides others, and ends at its first -1."""
    present = len(list(CARDS.iterdir())) if CARDS.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    chosen = [part.strip() for part in visible.split(",") if part.strip()]
    return min(present, len(chosen)) if "-1" not in chosen else min(present, chosen.index("-1"))


def threads_each(threads: int, workers: int) -> int:
    """CPU threads for each of several workers: as asked for, else an even share of the cores. 0: all of them."""
    if threads or workers == 1:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
