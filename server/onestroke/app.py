"""Settings in, app out: the one place where the parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import structlog
from fastapi import FastAPI

from onestroke import __version__
from onestroke.api import errors, openai, ops, page, raw, stream
from onestroke.api.context import Context
from onestroke.api.guard import Guard
from onestroke.metrics import Metrics
from onestroke.models.catalog import ModelSpec
from onestroke.scheduling.scheduler import Scheduler
from onestroke.settings import Settings
from onestroke.workers.engine import TORCH_ENGINE, WorkerConfig
from onestroke.workers.supervisor import Supervisor

log = structlog.get_logger(__name__)


def create_app(
    settings: Settings,
    spec: ModelSpec,
    *,
    engine: str = TORCH_ENGINE,
    on_change: Callable[[Scheduler], None] = lambda scheduler: None,
) -> FastAPI:
    """The server as an ASGI app; its lifespan starts the worker and drains it again.

    `engine` names the worker's engine factory (tests put a double there); `on_change` is called whenever
    readiness or progress changes.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving(settings, spec, metrics, engine=engine) as scheduler:
            app.state.context = Context(settings, spec, scheduler, metrics)
            unwatch = scheduler.watch(lambda: on_change(scheduler))
            yield
            unwatch()

    app = FastAPI(
        title="Onestroke",
        version=__version__,
        summary="Real-time text-to-image: type, and a fresh picture follows every key.",
        lifespan=lifespan,
        redoc_url=None,
    )
    errors.install(app)
    for face in (openai, raw, ops, stream):
        app.include_router(face.router)
    page.install(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


@contextlib.asynccontextmanager
async def serving(
    settings: Settings, spec: ModelSpec, metrics: Metrics, *, engine: str = TORCH_ENGINE, quiet: bool = False
) -> AsyncIterator[Scheduler]:
    """A scheduler with its worker, for as long as the block lasts; leaving it answers what was accepted."""
    scheduler = Scheduler(settings, metrics)
    config = WorkerConfig(spec, settings.device, settings.dtype, settings.threads, settings.max_batch, engine)
    supervisor = Supervisor("worker-0", config, scheduler)
    unwatch = scheduler.watch((lambda: None) if quiet else _progress_log(scheduler))
    supervisor.start()
    try:
        yield scheduler
    finally:
        unwatch()
        await scheduler.drained()
        await supervisor.stop()


def _progress_log(scheduler: Scheduler) -> Callable[[], None]:
    """A log line for each new stage of the warm-up, and one when pictures can be made."""
    began, last = time.monotonic(), ""

    def changed() -> None:
        nonlocal last
        progress = scheduler.progress()
        if progress.stage == last:
            return
        last = progress.stage
        seconds = round(time.monotonic() - began, 1)
        if scheduler.ready:
            for each in scheduler.workers():
                log.info("ready", device=each.device, dtype=each.dtype, threads=each.threads, seconds=seconds)
        elif scheduler.fatal:
            log.error("not servable", reason=scheduler.fatal.message)
        else:
            log.info(
                "warming up", stage=progress.stage, percent=round(100 * progress.fraction), seconds=seconds
            )

    return changed


async def until_ready(scheduler: Scheduler) -> None:
    """Returns once a picture can be made; raises what makes that impossible."""
    changed = asyncio.Event()
    unwatch = scheduler.watch(changed.set)
    try:
        while not scheduler.ready:
            if scheduler.fatal:
                raise scheduler.fatal
            changed.clear()
            await changed.wait()
    finally:
        unwatch()
