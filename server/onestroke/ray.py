"""The whole server as a Ray Serve application: a replica per GPU, or per N cores, on any machine of the cluster.

    onestroke serve --ray                          # joins the cluster of RAY_ADDRESS, or starts one here
    serve run onestroke.ray:app max_replicas=8     # on a cluster; settings from ONESTROKE_* variables

A replica is what `onestroke serve` runs, with Ray's proxy before it instead of uvicorn: the same app, settings,
scheduler and worker. `/metrics` tells of all replicas, since nobody can choose through a proxy which one answers.
Needs the extra `ray`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import ray
import structlog
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, Metric
from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import AutoscalingContext
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from onestroke.api.context import Context
from onestroke.api.errors import error_response
from onestroke.app import create_app, until_ready
from onestroke.errors import Unavailable
from onestroke.metrics import merged
from onestroke.models.choosing import choose_all
from onestroke.serving import CLOSING_TIMEOUT, KEEP_ALIVE, configure_logging
from onestroke.settings import Settings
from onestroke.workers.engine import TORCH_ENGINE

log = structlog.get_logger(__name__)

NAME = "onestroke"
CORES = 2
"""Cores of a replica without a GPU, where the settings do not say `threads`."""
FULL_PASSES = 2.0
"""Passes that a full replica has promised pictures for: one that runs, one that waits."""
FULL_SESSIONS = 0.8
"""Share of `max_sessions` at which a replica is full, so that another is there before anybody is turned away."""
UNBOUNDED = 100_000
"""Ray's own limit on a replica's requests is out of the way: admission is the scheduler's."""
HEALTH_PERIOD = 2.0
SILENCE = 2.5 * HEALTH_PERIOD
"""Seconds without a question after its health that make a replica ask whether it still belongs."""
ANSWER_TIMEOUT = 5.0
"""Seconds within which all replicas must have answered each other."""


class Replicas(BaseModel, extra="forbid"):
    """How far it may grow. `max_replicas` 0: as many as the cluster has room for when it is deployed."""

    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=0)] = 0


class Server:
    """One replica. Ray sends it work once it has drawn a picture."""

    def __init__(self, settings: dict[str, Any], engine: str) -> None:
        me = serve.get_replica_context()
        self._settings, self._engine = Settings(**settings), engine
        self._name: str = me.replica_tag
        self._all = serve.get_deployment_handle(me.deployment, me.app_name)
        self._context: Context | None = None
        self._asked_at = -math.inf

    def __serve_build_asgi_app__(self) -> FastAPI:
        configure_logging(self._settings)
        specs = [spec for spec, _ in choose_all(self._settings)]
        app = create_app(self._settings, specs, engine=self._engine)
        app.router.routes[:0] = [
            Route("/metrics", self._metrics),
            Route("/admin/{path:path}", _not_here, methods=["GET", "POST"]),
        ]
        app.router.lifespan_context = self._living(app.router.lifespan_context)
        return app

    def _living(
        self, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]]
    ) -> Callable[[FastAPI], AbstractAsyncContextManager[Any]]:
        """The server's own lifespan, from its first picture to its last."""

        @contextlib.asynccontextmanager
        async def living(app: FastAPI) -> AsyncIterator[Any]:
            async with lifespan(app) as state:
                await until_ready(app.state.context.scheduler)
                self._context = app.state.context
                leaving = asyncio.create_task(self._leave_when_dismissed(app.state.context))
                yield state
                leaving.cancel()

        return living

    # -- what Ray asks ----------------------------------------------------------------------------------------

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {"load": load(self._context, self._settings) if self._context else 0.0}

    async def check_health(self) -> None:
        """Raises what makes pictures impossible; then Ray replaces this replica."""
        self._asked_at = time.monotonic()
        if self._context and self._context.scheduler.fatal:
            raise self._context.scheduler.fatal

    # -- what replicas ask each other -------------------------------------------------------------------------

    async def samples(self) -> tuple[str, list[Metric]]:
        return self._name, list(self._context.metrics.registry.collect()) if self._context else []

    async def name(self) -> str:
        return self._name

    async def _ask_all(self, method: str) -> list[Any]:
        """The answers of all replicas that Ray sends work to, exceptions included.

        Raises TimeoutError, and RayServeException (DeploymentUnavailableError when there is none).
        """
        replies = self._all.broadcast(method)
        answers: list[Any] = await replies.results_async(timeout_s=ANSWER_TIMEOUT, return_exceptions=True)
        return answers

    async def _metrics(self, request: Request) -> Response:
        """Every living replica's, with the label `replica`."""
        try:
            answers = await self._ask_all("samples")
        except (TimeoutError, RayServeException):
            return error_response(Unavailable("not every replica tells its metrics"))
        living = dict(each for each in answers if not isinstance(each, BaseException))
        return Response(merged(living), media_type=CONTENT_TYPE_LATEST)

    async def _listed(self) -> bool | None:
        """Whether Ray sends work here; None where that cannot be told."""
        try:
            names = await self._ask_all("name")
        except DeploymentUnavailableError:
            return False
        except (TimeoutError, RayServeException):
            return None
        if self._name in names:
            return True
        return None if any(isinstance(each, BaseException) for each in names) else False

    async def _leave_when_dismissed(self, context: Context) -> None:
        """Drain once Ray has taken this replica away, so that its sockets close in order and Ray goes on.

        Ray does not tell a replica: it waits for the last request, which a socket never is, and kills. But it asks
        no more after the replica's health, and takes it off the list of those that it sends work to.
        """
        belongs = False
        while True:
            await asyncio.sleep(HEALTH_PERIOD)
            if belongs and time.monotonic() - self._asked_at < SILENCE:
                continue
            listed = await self._listed()
            if belongs and listed is False:
                log.info("taken away", pictures=context.scheduler.accepted)
                await context.scheduler.drained()
                return
            belongs = belongs or listed is True


@serve.ingress()
class Replica(Server):
    """The server as Ray starts it, with the app that it builds behind Ray's proxy."""


async def _not_here(request: Request) -> Response:
    """Behind the proxy nobody can say which replica is to leave, and Ray would go on sending it work."""
    raise HTTPException(404)


def load(context: Context, settings: Settings) -> float:
    """How much of a replica's capacity is taken; above 1, another is wanted.

    By the passes that the promised pictures would fill. Ray would count open sockets as work; most of their people
    are not typing, so sockets weigh only near the number that are let in.
    """
    passes = context.scheduler.accepted / settings.max_batch
    sessions = context.metrics.open_sessions / settings.max_sessions
    return max(passes / FULL_PASSES, sessions / FULL_SESSIONS)


def grow(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Replicas for the load of all, and no state. Ray keeps to the bounds and the delays."""
    loads = (context.aggregated_metrics or {}).get("load", {})
    return math.ceil(sum(loads.values())), {}


def app(arguments: dict[str, str]) -> Application:
    """For `serve run` and Serve's configuration files; the arguments are those of `Replicas`."""
    return application(Settings.model_validate({}), Replicas.model_validate(arguments))


def application(settings: Settings, replicas: Replicas, *, engine: str = TORCH_ENGINE) -> Application:
    """The deployment for this cluster: GPUs where it has any (and the settings want them), else cores.

    The cluster is asked only for what is not said: `device`, or how many replicas at most.
    """
    cluster = {} if settings.device != "auto" and replicas.max_replicas else resources()
    share, room = share_of(settings, cluster)
    threads = 0 if "num_gpus" in share else int(share["num_cpus"])
    settings = settings.model_copy(update={"threads": settings.threads or threads})
    deployment = serve.deployment(
        Replica,
        name=NAME,
        ray_actor_options=share,
        max_ongoing_requests=UNBOUNDED,
        health_check_period_s=HEALTH_PERIOD,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=leaves_within(settings),
        autoscaling_config={
            "min_replicas": replicas.min_replicas,
            "max_replicas": max(replicas.min_replicas, replicas.max_replicas or room, 1),
            "policy": {"policy_function": grow},
            "look_back_period_s": 15.0,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": 600.0,
        },
    )
    return deployment.bind(settings.model_dump(), engine)


def resources() -> dict[str, float]:
    """What the cluster has. `serve run` builds the application before it connects: RAY_ADDRESS says where to."""
    if not ray.is_initialized():
        ray.init()
    return dict(ray.cluster_resources())


def share_of(settings: Settings, cluster: dict[str, float]) -> tuple[dict[str, float], int]:
    """What one replica takes of the cluster's resources, and how many there is room for."""
    gpus = int(cluster.get("GPU", 0))
    cards = min(1, gpus) if settings.device == "auto" else settings.device.count("cuda")
    if cards:
        return {"num_gpus": cards, "num_cpus": 1}, gpus // cards
    cores = settings.threads or CORES
    return {"num_cpus": cores}, int(cluster.get("CPU", 0)) // cores


def leaves_within(settings: Settings) -> float:
    """Seconds until Ray kills what it has taken away: time to notice, to finish what is accepted, and to close."""
    noticed = SILENCE + HEALTH_PERIOD + ANSWER_TIMEOUT
    return noticed + settings.drain_notice + settings.drain_timeout + CLOSING_TIMEOUT


def run(settings: Settings) -> int:
    """`onestroke serve --ray`: deploy, wait for a signal, take it away again. Raises ModelError, SystemExit."""
    choose_all(settings)
    if settings.port == 0:
        raise SystemExit("onestroke: every node listens on the same port with --ray: choose one with --port")
    try:
        ray.init()
    except ConnectionError as error:
        cure = "see RAY_ADDRESS, and say RAY_AUTH_MODE=token where the cluster asks for one"
        raise SystemExit(f"onestroke: {error}; {cure}") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init has set one that drains nothing
    try:
        serve.start(
            http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": KEEP_ALIVE}
        )
        serve.run(application(settings, Replicas()), name=NAME)  # says where it serves
        signal.pause()
    except KeyboardInterrupt:
        pass
    except (RuntimeError, TimeoutError, RayError) as error:
        reason = str(error).strip().splitlines()[-1]  # a remote traceback stands before it
        raise SystemExit(f"onestroke: not deployed: {reason}") from error
    finally:
        with contextlib.suppress(RayServeException, RayError):
            serve.delete(NAME)
        ray.shutdown()
    return 0
