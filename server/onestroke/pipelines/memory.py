"""Is there memory for a model? Asked before its weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from onestroke.errors import ModelError
from onestroke.pipelines.rows import Progress

WORKING_SPACE = 1.5
"""Of the weights: at SDXL's size, in bf16 on a CPU, 6.9 GB of them took 10.5 GB at most, packing and one picture
included."""
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def check_memory(name: str, parameters: int, dtype: torch.dtype) -> None:
    """Raise ModelError where `parameters` numbers in `dtype` do not fit into this machine's memory."""
    needed = int(parameters * dtype.itemsize * WORKING_SPACE)
    free = available_bytes()
    if free is not None and needed > free:
        cure = "" if dtype.itemsize == 2 else " (--dtype bfloat16 takes half of that)"
        raise ModelError(
            f"{name} needs {needed / 1e9:.1f} GB of memory in {str(dtype).removeprefix('torch.')}{cure} and "
            f"{free / 1e9:.1f} GB are free: stop what else runs, or serve a smaller model"
        )


def check_together(needs: Mapping[str, int], device: torch.device) -> None:
    """Raise ModelError where models that need these bytes do not fit into `device` together."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    total = 0
    for name, needed in needs.items():
        total += needed
        if free is not None and total > free:
            each = ", ".join(f"{one} {bytes / 1e9:.1f} GB" for one, bytes in needs.items())
            raise ModelError(
                f"{name} is too much for {device} beside the models before it: {free / 1e9:.1f} GB are free, and "
                f"{sum(needs.values()) / 1e9:.1f} GB are needed ({each}): serve fewer or smaller models, or stop "
                "what else runs"
            )


def check_device_memory(name: str, modules: Iterable[torch.nn.Module], device: torch.device) -> None:
    """Raise ModelError where the weights of `modules` do not fit into what a CUDA `device` has free."""
    if device.type != "cuda":
        return
    needed = sum(tensor.nbytes for module in modules for tensor in module.parameters())
    free, total = torch.cuda.mem_get_info(device)
    if needed > free:
        raise ModelError(
            f"{name} needs {needed / 1e9:.1f} GB on {device}, which has {free / 1e9:.1f} of {total / 1e9:.1f} GB "
            "free: stop what else runs there, or serve a smaller model"
        )


@contextmanager
def moving(
    name: str, modules: Iterable[torch.nn.Module], device: torch.device, progress: Progress
) -> Iterator[None]:
    """Check that `modules` fit into `device`, and say so before and after the block that moves them there.

    Raises ModelError where they do not fit.
    """
    check_device_memory(name, modules, device)
    progress(f"moving {name} to {device}", 1.0)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{name} does not fit into the memory of {device}") from error
    progress(f"loaded {name}", 1.0)


def available_bytes() -> int | None:
    """Memory that can still be had, within the container's limit; None where this is not known."""
    found = [_meminfo(), *(_left(*files) for files in CGROUPS)]
    return min((each for each in found if each is not None), default=None)


def _meminfo() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _left(limit: str, used: str) -> int | None:
    """What a control group still allows; the page cache that it counts as used is given back under pressure."""
    try:
        return max(0, int(Path(limit).read_text()) - int(Path(used).read_text())) + _reclaimable(
            Path(used).parent
        )
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


def _reclaimable(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
