"""Real servers for the tests: uvicorn, the app and its worker in processes of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
READY_WITHIN = 240.0

DOUBLE = """
import sys
from onestroke import app, serving
from tests.doubles import FAKE_ENGINE
original = app.create_app
serving.create_app = lambda *a, **kw: original(*a, engine=FAKE_ENGINE, **kw)
from onestroke.cli import main
sys.argv[0] = "onestroke"
main()
"""


class Server:
    """One `onestroke serve` on a free port. `log` is what it has printed so far."""

    def __init__(self, *flags: str, double: bool, env: dict[str, str] | None = None) -> None:
        command = ["-c", DOUBLE] if double else ["-m", "onestroke"]
        self._log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *command, "serve", "--port", "0", *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'server'}", **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._log.append(line)
            if found := re.search(r"Onestroke is at (\S+);", line):
                self.url = found.group(1)
                break
        else:
            self.process.communicate()
            raise AssertionError("the server did not start:\n" + "".join(self._log))

    def until_ready(self, within: float = READY_WITHIN) -> Server:
        until = time.monotonic() + within
        while time.monotonic() < until:
            if httpx.get(f"{self.url}/readyz", timeout=60).status_code == 200:
                return self
            time.sleep(0.05)
        raise AssertionError(f"not ready within {within} s")

    @property
    def worker_pid(self) -> int:
        (worker,) = httpx.get(f"{self.url}/readyz", timeout=60).json()["workers"]
        return int(worker["pid"])

    @property
    def socket_url(self) -> str:
        return self.url.replace("http", "ws") + "/v1/stream"

    def rest_of_log(self, timeout: float = 45) -> str:
        """Wait for its end; returns all that it printed."""
        _, rest = self.process.communicate(timeout=timeout)
        return "".join(self._log) + rest

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> str:
        """End it; returns its log."""
        self.terminate()
        try:
            return self.rest_of_log()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the server did not stop:\n{self.rest_of_log()}") from None


@contextlib.contextmanager
def serving(*flags: str, double: bool = True, env: dict[str, str] | None = None) -> Iterator[Server]:
    server = Server(*flags, double=double, env=env)
    try:
        yield server.until_ready()
    finally:
        if server.process.poll() is None:
            server.stop()
