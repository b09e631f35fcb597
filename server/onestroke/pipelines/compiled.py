"""torch.compile of what a pipeline runs, and the folder in which its artifacts wait for the next start.

Inductor keeps everything it makes (graphs, kernels, shared objects) under TORCHINDUCTOR_CACHE_DIR. Each
combination of model, torch, card and settings gets a folder of its own there; it is filled under another name and
renamed once the warm-up is done, with a list of its files and their checksums, so a folder that is found whole is
whole. Artifacts are code: the folder belongs to its user alone and is as much to be trusted as the server itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

REGIONS = ("BasicTransformerBlock", "ResnetBlock2D", "CLIPMLP", "Block")
"""Classes that `regional` compiles in every network where they repeat: CLIPMLP is the text encoders' (transformers
hangs hooks on their other layers that torch.compile cannot follow), Block the tiny decoder's."""
NOT_HERE = {"unet": ("ResnetBlock2D",)}
"""Left out: an SDXL UNet's residual blocks come in a dozen shapes for every bucket. What they would gain is not
measured yet."""
VARIANTS = 1024
"""Shapes that one function may be compiled for; torch's own limit (8) would let the rest run uncompiled."""

MANIFEST = "manifest.json"
ABANDONED = 24 * 3600.0
"""Age in seconds from which on a folder that was never finished is removed."""


def compile_network(network: nn.Module, how: str, name: str) -> int:
    """Compile `network` (off, regional or full) in place, lazily: at its first call with each shape.

    Returns how many of its modules will be compiled. Every shape is compiled for itself: buckets are few, and
    kernels for one size are the faster ones.
    """
    if how == "off":
        return 0
    torch.compiler.set_stance("default")  # a model that was warmed up before this one has ended its compiling
    torch._dynamo.config.recompile_limit = VARIANTS
    torch._dynamo.config.accumulated_recompile_limit = VARIANTS
    wanted = set(REGIONS) - set(NOT_HERE.get(name, ()))
    inner = [module for module in network.modules() if type(module).__name__ in wanted]
    found = inner if how == "regional" and inner else [network]
    for module in found:
        module.compile(dynamic=False)
    return len(found)


def no_more_compiling() -> None:
    """From here on a shape that has not been compiled runs eagerly: no request waits for a compiler."""
    torch.compiler.set_stance("eager_on_recompile")


def cache_home(folder: str = "") -> Path:
    """`folder`, or the user's cache folder."""
    if folder:
        return Path(folder).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onestroke"


def card(device: torch.device) -> str:
    """What compiled code is for: the card's name and capability, or the processor's vector instructions."""
    if device.type == "cuda":
        return "{} {}.{}".format(
            torch.cuda.get_device_name(device), *torch.cuda.get_device_capability(device)
        )
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


class CompiledCache:
    """The artifacts of one combination. `hit`: a whole folder was found; `notes`: what was remembered with it."""

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        self._settings = dict(settings)
        self.key = hashlib.sha256(json.dumps(self._settings, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = home / "compiled" / self.key
        self.notes: dict[str, Any] = {}
        self.hit = self._check()
        self._where = self.folder
        if not self.hit:
            self._where = self.folder.with_name(f"{self.key}.{os.getpid()}-{time.time_ns()}")
            self._where.mkdir(parents=True, mode=0o700)
            self._sweep()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self._where)

    def seal(self, notes: Mapping[str, Any]) -> None:
        """Keep what has been compiled so far. A folder that another process has sealed meanwhile stays."""
        if self._where == self.folder:
            return
        manifest = {"files": _checksums(self._where), "notes": dict(notes), "settings": self._settings}
        (self._where / MANIFEST).write_text(json.dumps(manifest))
        try:
            self._where.rename(self.folder)
        except OSError:
            shutil.rmtree(self._where, ignore_errors=True)
        self._where = self.folder
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder)

    def described(self) -> str:
        """Where the artifacts are, how large they are and whether they were here already."""
        size = sum(path.stat().st_size for path in _files(self._where)) / 1e6
        return f"compiled artifacts {'found' if self.hit else 'made'}: {self._where} ({size:.1f} MB)"

    def _check(self) -> bool:
        """Whether the folder is there and whole; one that is not is removed, with a warning."""
        if not self.folder.is_dir():
            return False
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            found = _checksums(self.folder, manifest["files"])
            self.notes = dict(manifest["notes"])
            if found == manifest["files"]:
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        log.warning("the compiled artifacts in %s are damaged: compiling again", self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.notes = {}
        return False

    def _sweep(self) -> None:
        """Remove what processes that were killed in their warm-up have left."""
        for other in self.folder.parent.glob(f"{self.key}.*"):
            with contextlib.suppress(OSError):  # another process sweeps, too
                if time.time() - other.stat().st_mtime > ABANDONED:
                    shutil.rmtree(other, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def _checksums(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Of the named files, or of all in `folder`. Raises OSError for one that is not there."""
    paths = _files(folder) if names is None else [folder / name for name in names]
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in paths
    }
