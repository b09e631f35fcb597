"""Processes under test: started, frozen, woken, and gone with all that they started."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest

from benchmarks.children import ChildFailed
from benchmarks.options import ModelOptions
from benchmarks.serving import Server, running
from benchmarks.suite import busy_of_others

SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(child.pid).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(source: str) -> Server:
    return Server("fake", lambda port, _: [sys.executable, "-c", source, str(port)], "/", "/", "post", "/")


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_a_server_is_frozen_unless_woken_and_ends_with_all_that_it_started() -> None:
    with running(server(SERVER), ModelOptions()) as started:
        process = psutil.Process(started.process.pid)
        (grandchild,) = process.children()
        assert 0 < started.alive_seconds <= started.ready_seconds
        assert until(lambda: process.status() == psutil.STATUS_STOPPED)
        with started.awake():
            assert until(lambda: process.status() != psutil.STATUS_STOPPED)
        assert until(lambda: grandchild.status() == psutil.STATUS_STOPPED)
    assert until(lambda: not process.is_running())
    assert until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


def test_a_server_that_must_not_be_frozen_runs_on() -> None:
    with running(replace(server(SERVER), freezes=False), ModelOptions()) as started:
        with started.awake():
            pass
        time.sleep(0.05)
        assert psutil.Process(started.process.pid).status() != psutil.STATUS_STOPPED


def test_a_server_that_does_not_come_up_says_why() -> None:
    with (
        pytest.raises(ChildFailed, match="no model here"),
        running(server("raise SystemExit('no model here')"), ModelOptions()),
    ):
        pass


def test_own_work_is_not_others_work() -> None:
    others, own = busy_of_others(), time.process_time()
    while time.process_time() - own < 0.3:
        pass
    elapsed_work = busy_of_others() - others
    assert elapsed_work >= -0.1  # clock ticks of 10 ms, counted at different moments
