"""Settings in, app out: the one place where the parts are put together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

import structlog
from fastapi import FastAPI

from onestroke import __version__
from onestroke.api import adapters, errors, openai, ops, page, raw, stream
from onestroke.api.context import Context
from onestroke.api.guard import Guard
from onestroke.metrics import Metrics
from onestroke.models.choosing import adapters_from
from onestroke.models.specs import ModelSpec
from onestroke.scheduling.scheduler import Scheduler
from onestroke.settings import Settings
from onestroke.workers.devices import spell_out, threads_each
from onestroke.workers.engine import TORCH_ENGINE, WorkerConfig
from onestroke.workers.supervisor import Supervisor

log = structlog.get_logger(__name__)


def create_app(
    settings: Settings,
    specs: Sequence[ModelSpec],
    *,
    engine: str = TORCH_ENGINE,
    on_change: Callable[[Scheduler], None] = lambda scheduler: None,
) -> FastAPI:
    """The server of `specs`, the first by default, as an ASGI app; its lifespan starts the workers and drains them.

    `engine` names the worker's engine factory (tests put a double there); `on_change` is called whenever
    readiness or progress changes.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving(settings, specs, metrics, engine=engine) as scheduler:
            app.state.context = Context(settings, tuple(specs), scheduler, metrics)
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
    for face in (openai, raw, ops, adapters, stream):
        app.include_router(face.router)
    page.install(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


@contextlib.asynccontextmanager
async def serving(
    settings: Settings,
    specs: Sequence[ModelSpec],
    metrics: Metrics,
    *,
    engine: str = TORCH_ENGINE,
    quiet: bool = False,
) -> AsyncIterator[Scheduler]:
    """A scheduler with its workers, one per device and each with all `specs`; leaving the block answers what was
    accepted."""
    scheduler = Scheduler(settings, metrics)
    loras = adapters_from(settings)
    scheduler.adapters.known.update((each.name, each) for each in loras)
    devices = spell_out(settings.device)
    threads = threads_each(settings.threads, len(devices))
    supervisors = [
        Supervisor(
            f"worker-{i}",
            WorkerConfig(
                tuple(specs),
                device,
                settings.dtype,
                threads,
                settings.max_batch,
                engine,
                settings.levers,
                loras,
            ),
            scheduler,
        )
        for i, device in enumerate(devices)
    ]
    unwatch = scheduler.watch((lambda: None) if quiet else _progress_log(scheduler))
    for supervisor in supervisors:
        supervisor.start()
    try:
        yield scheduler
    finally:
        unwatch()
        await scheduler.drained()
        await asyncio.gather(*(supervisor.stop() for supervisor in supervisors))


def _progress_log(scheduler: Scheduler) -> Callable[[], None]:
    """A log line for each new stage of the warm-up, and one for each worker that can make pictures."""
    began, last = time.monotonic(), ""
    announced: set[int] = set()

    def changed() -> None:
        nonlocal last
        seconds = round(time.monotonic() - began, 1)
        for each in scheduler.workers():
            if each.pid not in announced:
                announced.add(each.pid)
                log.info("ready", device=each.device, dtype=each.dtype, threads=each.threads, seconds=seconds)
                for note in each.notes:
                    log.info(note)
        progress = scheduler.progress()
        if scheduler.ready or progress.stage == last:
            return
        last = progress.stage
        if scheduler.fatal:
            log.error("not servable", reason=scheduler.fatal.message)
        elif scheduler.draining:
            log.info("draining", pictures=scheduler.accepted)
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
