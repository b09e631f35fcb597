"""What operators and balancers ask: alive, ready, metrics; and to leave."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from onestroke.api.context import Served

router = APIRouter(tags=["operations"])


@router.get("/livez")
async def livez() -> JSONResponse:
    """200 as long as the process answers."""
    return JSONResponse({"alive": True})


@router.get("/readyz")
async def readyz(context: Served) -> JSONResponse:
    """200 when a picture can be made now (one has been, through the real path), 503 with the progress else."""
    scheduler = context.scheduler
    progress = scheduler.progress()
    body: dict[str, object] = {
        "ready": scheduler.ready,
        "stage": progress.stage,
        "fraction": round(progress.fraction, 3),
        "model": context.specs[0].name,
        "models": [spec.name for spec in context.specs],
        "workers": [
            {"device": each.device, "dtype": each.dtype, "threads": each.threads, "pid": each.pid}
            for each in scheduler.workers()
        ],
    }
    if scheduler.fatal:
        body["error"] = scheduler.fatal.message
    return JSONResponse(body, 200 if scheduler.ready else 503, {"Cache-Control": "no-store"})


@router.post("/admin/drain", status_code=202, include_in_schema=False)
async def drain(context: Served) -> JSONResponse:
    """Leave in order, as on SIGTERM. Only for callers on this machine, or with the key (see `guard`)."""
    context.scheduler.drain()
    left = {"pictures": context.scheduler.accepted, "sessions": context.metrics.open_sessions}
    return JSONResponse({"draining": True, **left}, 202)


@router.get("/metrics", response_class=Response)
async def metrics(context: Served) -> Response:
    """Prometheus' text format."""
    return Response(context.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
