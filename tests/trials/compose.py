"""The client's half of `make trial-docker`: pictures and streams through the balancer while a replica is killed."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import subprocess
import sys

import httpx

from tests.trials.load import Load, show


async def ready_replicas(prometheus: str, wanted: int) -> None:
    """Returns once Prometheus has seen so many; that it sees them by name proves its configuration."""
    async with httpx.AsyncClient(base_url=prometheus) as client, asyncio.timeout(60):
        while True:
            answer = await client.get("/api/v1/query", params={"query": "sum(onestroke_ready)"})
            result = answer.json()["data"]["result"]
            if result and float(result[0]["value"][1]) == wanted:
                print(f"Prometheus sees {wanted} ready")
                return
            await asyncio.sleep(1)


async def trial(url: str, prometheus: str, kill: str) -> bool:
    await ready_replicas(prometheus, 2)
    async with httpx.AsyncClient(base_url=url) as client:
        closed = [
            (await client.request(*each)).status_code
            for each in (("POST", "/admin/drain"), ("GET", "/metrics"))
        ]
    print(f"/admin and /metrics through the balancer: {closed}")
    load = Load(url, callers=4, typists=4)
    both = load.enter("both replicas")
    async with load.running():
        await asyncio.sleep(10)
        await both.underway()
        load.enter("one killed")
        await asyncio.to_thread(subprocess.run, shlex.split(kill), check=True, stdout=subprocess.DEVNULL)
        await asyncio.sleep(10)
        left = load.enter("one left")
        await asyncio.sleep(5)
        await left.underway()
    show(load.phases, "4 callers, 4 typists through HAProxy in compose")
    before, killed, after = load.phases
    return closed == [403, 403] and before.clean and after.clean and not killed.undrawn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("prometheus")
    parser.add_argument("--kill", required=True, help="the command that kills a replica")
    options = parser.parse_args()
    passed = asyncio.run(trial(options.url, options.prometheus, options.kill))
    print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
