"""Adapters as faces write them, and the operator's routes that add and remove them while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from onestroke.api.context import Served
from onestroke.core import AdapterUse
from onestroke.errors import InvalidRequest, ModelError
from onestroke.models import hub
from onestroke.models.choosing import adapter_of
from onestroke.models.specs import AdapterSpec, FileSpec

router = APIRouter(prefix="/admin", tags=["operations"], include_in_schema=False)


class Adapter(BaseModel):
    """A LoRA of this server by its name, and how strongly it acts."""

    model_config = ConfigDict(extra="forbid")

    name: str
    scale: float = 1.0


class NewAdapter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    source: str


def uses_of(adapters: Iterable[Adapter] | None) -> tuple[AdapterUse, ...]:
    return tuple(AdapterUse(each.name, each.scale) for each in adapters or ())


def uses_in(text: str) -> tuple[AdapterUse, ...]:
    """ "name:0.8,other" as a query has it. Raises InvalidRequest."""
    uses = []
    for part in filter(None, text.split(",")):
        name, colon, scale = part.partition(":")
        try:
            uses.append(AdapterUse(name.strip(), float(scale) if colon else 1.0))
        except ValueError as error:
            raise InvalidRequest(
                f"adapters must be NAME:SCALE,NAME:SCALE; got {part!r}", "adapters"
            ) from error
    return tuple(uses)


def spelled(uses: Iterable[AdapterUse]) -> str:
    """The same the other way."""
    return ",".join(f"{name}:{scale:g}" for name, scale in uses)


@router.post("/adapters", status_code=201)
async def add_adapter(body: NewAdapter, context: Served) -> JSONResponse:
    """Read a LoRA. Only for callers on this machine, or with the key (see `guard`)."""
    try:
        adapter = adapter_of(body.name, body.source)
        await context.scheduler.adapters.add(await asyncio.to_thread(_here, adapter))
    except ModelError as error:
        raise InvalidRequest(error.message, "source") from error
    return JSONResponse({"name": adapter.name, "source": adapter.file.name}, 201)


def _here(adapter: AdapterSpec) -> AdapterSpec:
    """The same with its file on this machine, so that no worker waits for the hub."""
    if adapter.file.is_local:
        return adapter
    return replace(adapter, file=FileSpec(str(hub.fetch(adapter.file))))


@router.delete("/adapters/{name}")
async def remove_adapter(name: str, context: Served) -> JSONResponse:
    """No request may name it any more."""
    context.scheduler.adapters.remove(name)
    return JSONResponse({"removed": name})
