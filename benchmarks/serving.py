"""Servers under test: how to start one, know that it is warm, and stop it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.children import ChildFailed, Tail, end, signal_family, spawn
from benchmarks.options import ModelOptions
from onestroke.models.catalog import CATALOG
from onestroke.models.choosing import choose

START_TIMEOUT = 600.0
"""Seconds: a first start may compile."""
_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Server:
    """A server that can be measured.

    `name` begins its rows ("" for ours). `command` makes the command line from a port and the model's options.
    `alive` and `ready` are paths that answer 200 once the process does and once a picture can be made.
    `transport` is "socket" (our stream at `path`) or "post" (JSON {"prompt"} to `path`, image bytes back).
    `freezes`: it may be stopped while it is not its turn, because it polls when idle or works off what nobody
    waits for any more. Ours does neither, and would take the lost time for a hanging worker.
    """

    name: str
    command: Callable[[int, ModelOptions], list[str]]
    alive: str
    ready: str
    transport: str
    path: str
    freezes: bool = True

    @property
    def prefix(self) -> str:
        """What its rows begin with."""
        return f"{self.name}." if self.name else ""


@dataclass(frozen=True, slots=True)
class Running:
    """A warm server, frozen until it is woken (see `Server.freezes`).

    `alive_seconds` and `ready_seconds` are from its start to its first answer and until a picture can be made.
    """

    server: Server
    url: str
    alive_seconds: float
    ready_seconds: float
    process: subprocess.Popen[str]

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """It runs for the block, and is frozen between blocks."""
        signal_family(self.process, signal.SIGCONT)
        try:
            yield
        finally:
            self.freeze()

    def freeze(self) -> None:
        if self.server.freezes:
            signal_family(self.process, signal.SIGSTOP)


def _ours(port: int, options: ModelOptions) -> list[str]:
    """A catalog model is served by its own recipe, which changes nothing but that 50 steps are allowed."""
    row = choose(options.model).spec.name
    if row in CATALOG:
        options = replace(options, model=row)
    recipe = ["--recipe", row] if row in CATALOG else []
    program = Path(sys.executable).with_name("onestroke")
    return [str(program), "serve", "--port", str(port), "--log-level", "warning", *options.flags, *recipe]


def module(name: str) -> Callable[[int, ModelOptions], list[str]]:
    """The command of a server that is a module of ours: python -m `name` PORT OPTIONS."""
    return lambda port, options: [sys.executable, "-m", name, str(port), json.dumps(asdict(options))]


OURS = Server("", _ours, "/livez", "/readyz", "socket", "/v1/stream", freezes=False)
NAIVE = Server("naive", module("benchmarks.peers.naive"), "/ready", "/ready", "post", "/generate")


@contextlib.contextmanager
def running(server: Server, options: ModelOptions) -> Iterator[Running]:
    """The server, warm and frozen, for the block. Raises ChildFailed when it does not become warm."""
    port = free_port()
    began = time.monotonic()
    process = spawn(server.command(port, options), stdout=subprocess.DEVNULL)
    assert process.stderr
    errors = Tail(process.stderr)
    url = f"http://127.0.0.1:{port}"
    try:
        alive, ready = (_until(url + path, process, errors) - began for path in (server.alive, server.ready))
        started = Running(server, url, alive, ready, process)
        started.freeze()
        yield started
    finally:
        end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until(url: str, process: subprocess.Popen[str], errors: Tail) -> float:
    """The moment at which `url` answered 200."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ChildFailed(f"the server left with {process.returncode}:\n{errors.text()}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return time.monotonic()
        time.sleep(_POLL)
    raise ChildFailed(f"{url} did not answer 200 within {START_TIMEOUT:.0f} s")
