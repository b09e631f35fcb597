"""What is being measured on: names for the report, without importing torch."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
LARGE = 64 << 20
"""Bytes of a file that is not read whole."""


def cpu_name() -> str:
    """Such as "AMD EPYC, 2 cores"."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        model = found[1].strip()
    return f"{model}, {cores_here()} cores"


def cores_here() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_name() -> str | None:
    """The first NVIDIA card, None where there is none."""
    return _nvidia("name")


def driver_of(device: str) -> str:
    """The version of the card's driver; empty where `device` is no NVIDIA card."""
    return (_nvidia("driver_version") if device.startswith("cuda") else None) or ""


def _nvidia(field: str) -> str | None:
    try:
        out = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return out.splitlines()[0].strip() if out.strip() else None


def device_name(device: str) -> str:
    """Of the kind of device that torch names: the card for cuda, else the processor."""
    return (gpu_name() if device.startswith("cuda") else None) or cpu_name()


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def commit() -> str:
    """The short hash of the tree, with "+" where tracked files of the server or the benchmark differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "server", "benchmarks/*.py")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def torch_version() -> str:
    return version("torch")


def weights_digest(model: Path) -> str:
    """Eight hex digits over all safetensors of a model's folder, or its file: tells weights from others.

    Of a large file only the ends count, and its size: every process of a run asks.
    """
    digest = hashlib.sha256()
    for path in sorted(model.rglob("*.safetensors")) if model.is_dir() else [model]:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= LARGE:
                digest.update(file.read())
            else:
                digest.update(f"{size}".encode() + file.read(LARGE // 2))
                file.seek(-LARGE // 2, os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()[:8]


def busy_share(seconds: float = 1.0) -> float:
    """The share of all cores that is in use right now, 0 to 1, by everybody else: call it while idle."""
    return float(psutil.cpu_percent(interval=seconds)) / 100
