"""Ray Serve over diffusers' call, with the dynamic batching that its documentation recommends (`@serve.batch`).

One deployment is both ingress and model, so that a request takes one hop less than over a handle. The batch size is
ours; `batch_wait_timeout_s` is 0: a batch is what came while the last one ran, and waiting longer only adds to
every picture's age. `max_ongoing_requests`, 5 by default, would cap the batch, and is raised. The replica has the
cores for itself, drawing runs on one thread of its own beside the event loop, and RAY_SERVE_THROUGHPUT_OPTIMIZED is
set, as the performance guide says. Its HAProxy is left off: with one replica it balances nothing, and it listens on
all interfaces. A cluster of this one machine starts and ends with the process, without dashboard.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from threading import Event

# Time-outs: a cluster that is frozen while others have their turn must not take itself for dead.
os.environ.update(
    RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
    RAY_worker_niceness="0",  # 15 by default: behind whoever asks
    RAY_USAGE_STATS_ENABLED="0",
    RAY_health_check_timeout_ms="600000",
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="600",
    RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S="600",
)

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.machine import ROOT, cores_here
from benchmarks.options import ModelOptions

MAX_ONGOING = 10_000
OBJECT_STORE = 100 << 20


@serve.deployment(max_ongoing_requests=MAX_ONGOING, health_check_period_s=600, health_check_timeout_s=600)
class Model:
    def __init__(self, options: ModelOptions) -> None:
        from benchmarks.peers.diffusers_call import DiffusersCall

        self.call = DiffusersCall(options)
        self.device = ThreadPoolExecutor(1)
        batches = range(1, options.max_batch + 1)
        self.device.submit(self.call.warm_up, batches, lambda n: ["warming up"] * n).result()
        self.draw.set_max_batch_size(options.max_batch)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0)  # type: ignore[untyped-decorator]
    async def draw(self, prompts: list[str]) -> list[bytes]:
        return await asyncio.get_running_loop().run_in_executor(self.device, self.call.draw, prompts)

    async def __call__(self, request: Request) -> Response:
        if request.method == "GET":
            return Response("ready")
        return Response(await self.draw((await request.json())["prompt"]), media_type="image/jpeg")


def main() -> None:
    port, options = int(sys.argv[1]), ModelOptions(**json.loads(sys.argv[2]))
    cores = options.threads or cores_here()
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        ray.init(
            address="local",  # never somebody else's cluster
            num_cpus=cores,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            logging_level=logging.WARNING,
            _temp_dir=folder,
            runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}},
        )
        leave = Event()
        signal.signal(signal.SIGTERM, lambda *_: leave.set())
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            actor = {"num_cpus": cores, "num_gpus": 0}
            serve.run(
                Model.options(  # type: ignore[attr-defined]
                    ray_actor_options=actor
                ).bind(options),
                route_prefix="/generate",
            )
            leave.wait()
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
