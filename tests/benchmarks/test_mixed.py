"""Typists beside an app: what is read from the server's counters, and that the app keeps asking."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from benchmarks import mixed
from benchmarks.serving import OURS, Running
from benchmarks.statistics import Shown, Typed
from benchmarks.typists import Crowd, Outcome
from benchmarks.wire import BadAnswer
from onestroke.metrics import Metrics

OUTCOME = Outcome(10.0, 20.0, (Typed((9.0, 11.0), (Shown(9.0, 9.9), Shown(11.0, 11.5))),), 0, 0.1)


class Asked(BaseHTTPRequestHandler):
    """Draws nothing for anything but 50 steps."""

    protocol_version = "HTTP/1.1"
    steps: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.steps.append(body["steps"])
        self.send_response(200 if body["steps"] == 50 else 400)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Running]:
    Asked.steps = []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    Thread(target=httpd.serve_forever, daemon=True).start()
    process: subprocess.Popen[str] = subprocess.Popen(["true"], text=True)
    process.wait()
    yield Running(OURS, f"http://127.0.0.1:{httpd.server_port}", 0.0, 0.0, process)
    httpd.shutdown()
    httpd.server_close()


def beside(server: Running, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    def watch(crowd: Crowd) -> Outcome:
        wanted = 3 if steps == 50 else 1
        while len(Asked.steps) < wanted:
            time.sleep(0.01)
        time.sleep(0.3)  # for the last answer to arrive
        return OUTCOME

    monkeypatch.setattr(mixed, "watch", watch)
    crowd: Any = None
    outcome, seconds = asyncio.run(mixed._beside(server, crowd, steps, lambda: "a fox"))
    assert outcome is OUTCOME
    return seconds


def test_the_app_asks_for_one_picture_after_the_other(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(beside(server, 50, monkeypatch)) >= 2
    assert set(Asked.steps) == {50}


def test_an_app_that_is_refused_ends_the_measurement(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadAnswer, match="400"):
        beside(server, 60, monkeypatch)


def test_one_step_is_the_mean_of_the_servers_own_timings() -> None:
    metrics = Metrics()
    metrics.verb_seconds.labels(verb="step").observe(5.0)
    before = mixed.parse(metrics.exposition().decode())
    for seconds in (0.02, 0.04):
        metrics.verb_seconds.labels(verb="step").observe(seconds)
        metrics.verb_seconds.labels(verb="decode").observe(1.0)
        metrics.mixed_passes.inc()
    after = mixed.parse(metrics.exposition().decode())
    assert mixed.mean_step(before, after) == pytest.approx(0.03)
    assert after["onestroke_mixed_passes_total"] == 2
    assert "onestroke_passes_total" in after


def test_only_pictures_of_the_window_count() -> None:
    assert mixed.prompt_age_p95(OUTCOME) == 0.5
