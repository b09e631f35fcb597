"""`make trial-rolling`: both replicas behind HAProxy are restarted under load, then one is killed.

Two real servers, HAProxy with the very configuration that docker/ ships, 8 callers and 8 typists. Fails unless the
restarts lose nothing: every REST request answered with a picture, every typed phrase drawn. What `kill -9` loses is
stated; there, too, every phrase must be drawn in the end.

    python -m tests.trials.rolling [--double] [flags of `onestroke serve`]

`--double` has the replicas draw plain colours, at the pace of a small GPU: all but the model is real. The servers'
own patience is set wide, so that a slow machine's overload is not taken for a loss.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from tests.servers import DOUBLE
from tests.trials.load import Load, show

ROOT = Path(__file__).parent.parent.parent
READY_WITHIN = 300.0
LEAVES_WITHIN = 90.0
PATIENT = ("--request-timeout", "60", "--max-wait", "60", "--drain-timeout", "60")


class Replica:
    """One `onestroke serve` on a port of its own, which it keeps over restarts."""

    def __init__(self, name: str, folder: Path, flags: list[str], *, double: bool) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / f"{name}.log").open("w")
        program = ["-c", DOUBLE] if double else ["-m", "onestroke"]
        self._command = [sys.executable, *program, "serve", "--port", str(self.port), *flags]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stderr=self._log)

    async def until_ready(self) -> float:
        """Seconds that it took."""
        began = time.monotonic()
        async with httpx.AsyncClient(timeout=10) as client:
            while time.monotonic() - began < READY_WITHIN:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return time.monotonic() - began
                if self.process.poll() is not None:
                    raise SystemExit(f"a replica ended: see {self._log.name}")
                await asyncio.sleep(0.1)
        raise SystemExit(f"a replica did not become ready within {READY_WITHIN:g} s")

    async def gone(self) -> float:
        """Seconds until the process has left."""
        began = time.monotonic()
        await asyncio.to_thread(self.process.wait, LEAVES_WITHIN)
        return time.monotonic() - began


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def balancing(ports: Sequence[int], folder: Path, *settings: str) -> Iterator[str]:
    """HAProxy before them, with the policy that docker/ ships and `settings` of its backend; yields its URL."""
    haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
    port = free_port()
    servers = folder / "replicas.cfg"
    lines = [*settings, *(f"server replica{i} 127.0.0.1:{each}" for i, each in enumerate(ports))]
    servers.write_text("\n    ".join(["backend replicas", *lines]) + "\n")
    with (folder / "haproxy.log").open("w") as log:
        process = subprocess.Popen(
            [haproxy, "-W", "-db", "-f", str(ROOT / "docker/haproxy/haproxy.cfg"), "-f", str(servers)],
            env={**os.environ, "ONESTROKE_BIND": f"127.0.0.1:{port}"},
            stdout=log,
            stderr=log,
        )
        time.sleep(1)
        if process.poll() is not None:
            raise SystemExit(f"HAProxy did not start: see {log.name}")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


async def trial(replicas: list[Replica], url: str, callers: int, typists: int) -> Load:
    await asyncio.gather(*(replica.until_ready() for replica in replicas))
    await asyncio.sleep(1)
    load = Load(url, callers, typists)
    before = load.enter("before")
    async with load.running():
        await asyncio.sleep(5)
        await before.underway()
        for name, replica in zip("AB", replicas, strict=True):
            how = "SIGTERM" if name == "A" else "POST /admin/drain"
            load.enter(f"restart {name} ({how})")
            if name == "A":
                replica.process.send_signal(signal.SIGTERM)
            else:
                async with httpx.AsyncClient() as operator:
                    (await operator.post(f"{replica.url}/admin/drain")).raise_for_status()
            left = await replica.gone()
            replica.start()
            ready = await replica.until_ready()
            print(f"{name}: {how}, left after {left:.1f} s, ready again {ready:.1f} s later", flush=True)
            await asyncio.sleep(2)
        load.enter("kill -9 B")
        replicas[1].process.kill()
        await replicas[1].gone()
        await asyncio.sleep(3)
        replicas[1].start()
        print(f"B: killed, ready again {await replicas[1].until_ready():.1f} s after its start", flush=True)
        await asyncio.sleep(2)
    return load


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--typists", type=int, default=8)
    parser.add_argument("--notice", type=float, default=1.0, help="seconds of --drain-notice")
    parser.add_argument("--double", action="store_true", help="draw plain colours")
    options, serve_flags = parser.parse_known_args()
    folder = Path(tempfile.mkdtemp(prefix="onestroke-rolling-"))
    flags = ["--drain-notice", str(options.notice), *PATIENT, *serve_flags]
    replicas = [Replica(name, folder, flags, double=options.double) for name in "AB"]
    try:
        with balancing([each.port for each in replicas], folder) as url:
            load = asyncio.run(trial(replicas, url, options.callers, options.typists))
    finally:
        for replica in replicas:
            replica.process.terminate()
    show(load.phases, f"{options.callers} callers, {options.typists} typists, two replicas behind HAProxy")
    print(f"logs: {folder}")
    *rolling, killed = load.phases
    passed = all(phase.clean for phase in rolling) and not killed.undrawn
    print(
        f"kill -9: {killed.failed.total()} of {len(killed.answered) + killed.failed.total()} REST requests lost"
    )
    print("PASSED" if passed else "FAILED: the restarts were to lose nothing, and every phrase to be drawn")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
