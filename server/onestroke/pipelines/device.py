"""What a device's errors mean: try with fewer rows, or begin again in another process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from onestroke.errors import DeviceLost


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Raises DeviceLost for an error after which nothing works on `device` in this process.

    A CUDA error (an illegal access, a failed assertion) spoils its context for good, and whoever calls next hears
    of it under any name; so any RuntimeError is followed by the question whether the device still answers. Out
    of memory is no such error: what is cached is given back, and fewer rows may fit.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise
    except RuntimeError as error:
        if isinstance(error, torch.AcceleratorError) or not answers(device):
            raise DeviceLost(f"{device} answers no more: {error}") from error
        raise


def answers(device: torch.device) -> bool:
    """Whether `device` still does what it is told."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
