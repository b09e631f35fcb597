"""`onestroke doctor`: what this machine has, what is missing, and the cure. Torch is asked in a child process."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onestroke.models.catalog import CATALOG, EMBEDDED_FOLDER
from onestroke.models.choosing import has_nvidia_card
from onestroke.models.hub import is_cached

ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "device": torch.cuda.get_device_name(0) if cuda else "mps" if torch.backends.mps.is_available() else "cpu",
    "cuda_build": torch.version.cuda,
    "threads": torch.get_num_threads(),
}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    found: str
    ok: bool = True
    cure: str = ""


def examine(port: int) -> Iterator[Finding]:
    """One finding after the other, the slow ones last."""
    yield _python()
    yield _embedded()
    yield _weights()
    yield _port(port)
    yield from _torch()


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("Python", platform.python_version(), ok, "" if ok else "install Python 3.11 or newer")


def _embedded() -> Finding:
    size = sum(path.stat().st_size for path in EMBEDDED_FOLDER.rglob("*") if path.is_file())
    if is_cached(CATALOG["embedded"]):
        return Finding("embedded model", f"{size / 1e6:.0f} MB in {EMBEDDED_FOLDER}")
    return Finding("embedded model", "missing", False, "reinstall onestroke, or make it with `make train`")


def _weights() -> Finding:
    """Which catalog rows that are fetched from the hub are in its cache."""
    fetched = [spec for spec in CATALOG.values() if not spec.is_local]
    here = [spec.name for spec in fetched if is_cached(spec)]
    found = f"{len(here)} of {len(fetched)} are here" + (f": {', '.join(here)}" if here else "")
    return Finding(
        "other models", found, cure="`onestroke models` lists them, `onestroke fetch NAME` gets one"
    )


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(
                "port", f"{port}: {error.strerror}", False, "stop what listens there, or use --port"
            )
    return Finding("port", f"{port} is free")


def _torch() -> Iterator[Finding]:
    child = subprocess.run(
        [sys.executable, "-c", ASK_TORCH],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path("/"),
    )
    if child.returncode != 0:
        reason = child.stderr.strip().splitlines()[-1:] or ["no output"]
        yield Finding("torch", reason[0], False, "run `make install` (or `pip install torch`)")
        return
    torch = json.loads(child.stdout)
    yield Finding("torch", f"{torch['version']}, {torch['threads']} CPU threads")
    cure = ""
    if has_nvidia_card() and torch["cuda_build"] is None:
        cure = "there is an NVIDIA card but a CPU build of torch: `make install TORCH=cuda`"
    yield Finding("device", torch["device"], not cure, cure)
