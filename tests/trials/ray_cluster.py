"""`make trial-ray`: the server on a real Ray cluster of two local nodes, under load.

It starts with one replica and must grow to two by itself. Then it is deployed anew (both replicas are replaced, one
after the other), a replica is killed, and a node with all that runs on it.

    python -m tests.trials.ray_cluster [--double] [--vanish] [--balancer]

Up to the kills callers never try again, and nothing may fail. From then on they use the client's retries: what a
killed replica had accepted, Ray's proxy answers with a bare 500, and the client asks again. Typists come back with
their newest prompt all along. Fails unless every picture is there in the end, replicas leave before Ray kills them,
and `/metrics` tells of each.

`--double` draws plain colours, at the pace of a small GPU: all but the model is real. `--vanish` freezes the node
instead of killing it, so that its connections stay open and only Ray's health checks find out. With `--balancer`
HAProxy stands before Ray's proxy and asks again in the callers' place, who never do.

The cluster runs in processes of its own under a time limit; none is left behind, whatever happens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from statistics import median
from typing import NoReturn

import httpx
import psutil

from tests.servers import serving
from tests.trials.load import Load, Phase, show
from tests.trials.rolling import balancing, free_port

CALLERS, TYPISTS = 4, 4
RETRIES = 10
WITHIN = 420.0
"""Seconds for all of it."""
EACH_WITHIN = 180.0
"""Seconds for each step."""
BALANCER = (
    "retry-on conn-failure empty-response 500 503",
    "http-check send meth GET uri /-/healthz ver HTTP/1.1 hdr Host localhost",
    "http-check expect status 200",
)
"""What a balancer before Ray's proxies needs beside the shipped policy (docs/operations.md)."""
OBJECT_STORE = 100 << 20
PR_SET_CHILD_SUBREAPER = 36
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # 15 by default: on a busy machine such replicas hardly run
    "RAY_enable_worker_prestart": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}


class Cluster:
    """Two nodes of one core each, so that each has room for one replica; Serve's proxy is on the first."""

    def __init__(self, port: int, options: argparse.Namespace) -> None:
        import ray
        from ray import serve
        from ray.cluster_utils import Cluster as Nodes

        from onestroke.settings import Settings

        node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        self._nodes = Nodes(initialize_head=True, head_node_args=node)
        self._second = self._nodes.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
        ray.init(address=self._nodes.address, log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        self.settings = Settings(
            port=port, threads=1, max_batch=1, request_timeout=60, max_wait=60, drain_timeout=60
        )
        self._options = options

    def deploy(self) -> None:
        """Begin to serve, or to replace every replica; `deployed` says when that is done."""
        from ray import serve

        from onestroke.ray import NAME, Replicas, application
        from onestroke.workers.engine import TORCH_ENGINE
        from tests.doubles import FAKE_ENGINE

        engine = FAKE_ENGINE if self._options.double else TORCH_ENGINE
        whole = application(self.settings, Replicas(max_replicas=2), engine=engine)
        serve.run_many([serve.RunTarget(whole, name=NAME)], wait_for_applications_running=False)

    def status(self) -> tuple[bool, dict[str, int]]:
        """Whether all is deployed, and how many replicas there are in each of Serve's states."""
        from ray import serve

        from onestroke.ray import NAME

        status = serve.status().applications[NAME]
        return status.status == "RUNNING", dict(status.deployments[NAME].replica_states)

    def lose_second_node(self) -> None:
        """Kill it; or, as a machine whose power or network fails, have it answer no more and close nothing."""
        if not self._options.vanish:
            self._nodes.remove_node(self._second, allow_graceful=False)
            return
        raylet = psutil.Process(self._second.all_processes["raylet"][0].process.pid)
        for each in (raylet, *raylet.children(recursive=True)):
            each.suspend()


async def states(cluster: Cluster) -> AsyncIterator[tuple[float, bool, Mapping[str, int]]]:
    """Five times a second: seconds since the first, and Serve's status. Raises SystemExit after EACH_WITHIN."""
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < EACH_WITHIN:
        yield seconds, *(status := await asyncio.to_thread(cluster.status))
        await asyncio.sleep(0.2)
    raise SystemExit(f"not so within {EACH_WITHIN:g} s: {status}")


async def running(cluster: Cluster, count: int) -> float:
    """Seconds until just so many replicas run."""
    async for seconds, _, replicas in states(cluster):
        if replicas.get("RUNNING", 0) == count:
            return seconds
    raise AssertionError("states raises before it ends")


async def deployed(cluster: Cluster) -> tuple[float, float]:
    """Seconds that it took, and the longest that a replica took to leave."""
    since, longest = 0.0, 0.0
    async for seconds, done, replicas in states(cluster):
        since = since if replicas.get("STOPPING") else seconds
        longest = max(longest, seconds - since)
        if done:
            break
    return seconds, longest


async def a_replica(client: httpx.AsyncClient) -> int:
    """The process of whichever replica answers: its worker's parent."""
    (worker,) = (await client.get("/readyz")).json()["workers"]
    return psutil.Process(worker["pid"]).ppid()


async def told_of(client: httpx.AsyncClient) -> int:
    """Replicas that `/metrics` tells of as ready."""
    answer = (await client.get("/metrics")).raise_for_status()
    return sum(
        line.startswith("onestroke_ready{replica=") and line.endswith(" 1.0")
        for line in answer.text.splitlines()
    )


async def quickest_answer(url: str) -> float:
    """Milliseconds of a request that asks for nothing, at the median, one after the other."""
    seconds = []
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        for _ in range(200):
            began = time.perf_counter()
            (await client.get("/livez")).raise_for_status()
            seconds.append(time.perf_counter() - began)
    return 1000 * median(seconds)


async def trial(cluster: Cluster, url: str, public: str, retries: int) -> tuple[list[str], list[Phase]]:
    """Says what it sees as it goes. What was not as it must be, and what people got.

    Operators go to `url`, Ray's proxy, and everybody else to `public`; callers have `retries` from the kills on.
    """
    await deployed(cluster)
    say("the first replica serves")
    with serving() as alone:
        bare = await quickest_answer(alone.url)
    proxied = await quickest_answer(url)
    say(f"GET /livez takes {bare:.1f} ms from a server alone, {proxied:.1f} ms through Ray's proxy")
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        load = Load(public, CALLERS, TYPISTS)
        first = load.enter("one replica")
        async with load.running():
            await first.underway()
            say(f"the second replica, for the load alone, after {await running(cluster, 2):.0f} s")
            two = load.enter("two replicas")
            await asyncio.sleep(5)
            await two.underway()
            told = await told_of(client)
            say(f"/metrics tells of {told} replicas")
            load.enter("deployed anew")
            cluster.deploy()
            seconds, leaving = await deployed(cluster)
            again = await running(cluster, 2)
            say(f"deployed anew in {seconds + again:.0f} s; a replica took {leaving:.0f} s at most to leave")
        patient = Load(public, CALLERS, TYPISTS, retries=retries)
        patient.enter("replica killed")
        async with patient.running():
            await patient.phases[-1].underway()
            os.kill(await a_replica(client), signal.SIGKILL)
            missed = await running(cluster, 1)
            back = missed + await running(cluster, 2)
            say(f"a killed replica: missed after {missed:.1f} s, replaced after {back:.0f} s")
            lost = patient.enter("node lost")
            await asyncio.to_thread(cluster.lose_second_node)
            say(f"a lost node: missed after {await running(cluster, 1):.1f} s")
            await asyncio.sleep(5)
            await lost.underway()
    longest = max(*lost.answered, *lost.drawn)
    say(f"the longest that anybody waited for a picture when the node was lost: {longest:.1f} s")
    phases = load.phases + patient.phases
    complaints = [f"{phase.name}: not everybody got a picture" for phase in phases if not phase.clean]
    if told != 2:
        complaints.append("/metrics is to tell of both replicas")
    if leaving > cluster.settings.drain_timeout:
        complaints.append("a replica is to leave by itself, before Ray kills it")
    return complaints, phases


def say(line: str) -> None:
    print(f"{time.strftime('%X')}  {line}", flush=True, file=sys.__stdout__)


def inside(options: argparse.Namespace) -> NoReturn:
    """The trial itself, in a process that may be killed."""
    port, retries = free_port(), RETRIES
    url = public = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # Ray is loud about what is killed here
        cluster = Cluster(port, options)
        say("two nodes and Serve run")
        cluster.deploy()
        if options.balancer:
            public = stack.enter_context(balancing([port], Path(os.environ["RAY_TMPDIR"]), *BALANCER))
            retries = 0
        complaints, phases = asyncio.run(trial(cluster, url, public, retries))
    show(phases, f"{CALLERS} callers, {TYPISTS} typists, Ray Serve on two local nodes")
    say("; ".join(["FAILED", *complaints]) if complaints else "PASSED")
    os._exit(1 if complaints else 0)  # Ray would take its time to end the cluster; `main` ends it at once


def adopt_orphans() -> None:
    """From now on what loses its parent becomes this process's child (Linux), so that nothing gets away."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_all() -> None:
    """Ray's processes rename themselves and change parents and sessions; that they descend from here stays."""
    for _ in range(5):
        left = psutil.Process().children(recursive=True)
        for each in left:
            with contextlib.suppress(psutil.Error):
                each.kill()
        psutil.wait_procs(left, timeout=10)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--double", action="store_true", help="draw plain colours")
    parser.add_argument("--vanish", action="store_true", help="freeze the node instead of killing it")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--balancer", action="store_true", help="HAProxy asks again instead of the callers")
    options = parser.parse_args()
    if options.inside:
        inside(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets want a short path
    os.environ |= {**RAY, "RAY_TMPDIR": str(folder)}
    adopt_orphans()
    status = 1
    try:
        command = [sys.executable, "-m", "tests.trials.ray_cluster", "--inside", *sys.argv[1:]]
        with (folder / "stderr.log").open("w") as log:
            status = subprocess.run(command, stderr=log, timeout=WITHIN, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"FAILED: not done within {WITHIN:g} s")
    finally:
        end_all()
        if status == 0:
            shutil.rmtree(folder)
        else:
            print("".join((folder / "stderr.log").read_text().splitlines(keepends=True)[-20:]), end="")
            print(f"more: {folder}/stderr.log, {folder}/ray/session_latest/logs")
    return status


if __name__ == "__main__":
    sys.exit(main())
