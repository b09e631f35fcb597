"""Drawing for a caller over HTTP: all tickets or none, cancelled when the caller goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from starlette.requests import Request

from onestroke.api.context import Context
from onestroke.core import GenerationRequest, Picture
from onestroke.errors import Cancelled
from onestroke.scheduling.rows import Lane
from onestroke.scheduling.scheduler import Ticket


async def draw(
    context: Context, request: Request, asked: Sequence[GenerationRequest], tenant: str
) -> list[Picture]:
    """The pictures, in order. Raises OnestrokeError: the first failure cancels the rest."""
    tickets: list[Ticket] = []
    gone = asyncio.create_task(_gone(request))
    try:
        for each in asked:
            tickets.append(context.scheduler.submit(each, lane=Lane.BULK, tenant=tenant))
        drawn = asyncio.create_task(_all(tickets))
        await asyncio.wait((drawn, gone), return_when=asyncio.FIRST_COMPLETED)
        if not drawn.done():
            drawn.cancel()
            raise Cancelled("the caller went away")
        return drawn.result()
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        for ticket in tickets:
            ticket.cancel()


async def _all(tickets: Sequence[Ticket]) -> list[Picture]:
    return await asyncio.gather(*(ticket.picture for ticket in tickets))


async def _gone(request: Request) -> None:
    """Returns when the caller has closed its connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def tenant_of(request: Request, user: str | None = None) -> str:
    """Who shares a turn: the caller's own name for its user, else its address."""
    return f"user:{user}" if user else f"address:{request.client.host if request.client else 'local'}"
