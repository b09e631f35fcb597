"""Our side of child processes: start, talk, and make sure that they are gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from threading import Thread
from typing import IO, Any

import psutil

from benchmarks.machine import ROOT
from benchmarks.options import ModelOptions

STOP_TIMEOUT = 40.0
"""Seconds that a process may take to leave when asked; our server drains first."""


class ChildFailed(Exception):
    """A process ended or said what was not expected; the message holds its last words."""


class Tail:
    """Reads a stream to its end on a thread and keeps the last lines."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: deque[str] = deque(maxlen=30)
        self._thread = Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError):  # closed under us: the process has been given up
            for line in stream:
                self._lines.append(line)

    def text(self) -> str:
        self._thread.join(1.0)
        return "".join(self._lines)


def spawn(command: Sequence[str], **kwargs: Any) -> subprocess.Popen[str]:
    """A process in the repository's root that can import `benchmarks`, at the head of a group of its own."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
        **kwargs,
    )


def signal_family(process: subprocess.Popen[str], number: int) -> list[psutil.Process]:
    """To the process and all that it started, also into groups of their own; returns these others."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    with contextlib.suppress(psutil.Error):
        others: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
        _signal(others, number)
        return others
    return []


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for each in processes:
        with contextlib.suppress(psutil.Error):
            each.send_signal(number)


def end(process: subprocess.Popen[str]) -> None:
    """Ask it to leave, then insist; what it leaves behind goes with it."""
    others = signal_family(process, signal.SIGCONT)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            others += signal_family(process, signal.SIGKILL)
            process.wait()
    signal_family(process, signal.SIGKILL)
    _signal(others, signal.SIGKILL)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with contextlib.suppress(OSError):
                stream.close()


class Child:
    """A target in a process of its own (see `child`): its attributes say what it runs, and on what."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stderr
        self._errors = Tail(process.stderr)
        hello = self._reply()
        self.device: str = hello["device"]
        self.dtype: str = hello["dtype"]
        self.threads: int = hello["threads"]
        self.model: str = hello["model"]
        self.weights: str = hello["weights"]
        self.sdxl_turbo: bool = hello["sdxl_turbo"]

    def ask(self, what: str, **arguments: Any) -> Any:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"what": what, **arguments}) + "\n")
        except OSError as error:
            raise ChildFailed(self._errors.text()) from error
        return self._reply()

    def _reply(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(self._errors.text())
        return json.loads(line)


@contextlib.contextmanager
def child(
    target: str, options: ModelOptions, *, seed: int, stream: int, batches: Sequence[int], compile_mode: str
) -> Iterator[Child]:
    """A warm child for the block. Raises ChildFailed."""
    start = {
        "target": target,
        "options": asdict(options),
        "seed": seed,
        "stream": stream,
        "batches": list(batches),
        "compile_mode": compile_mode,
    }
    process = spawn(
        [sys.executable, "-m", "benchmarks.child", json.dumps(start)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Child(process)
    finally:
        end(process)
