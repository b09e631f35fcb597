"""The LoRAs that requests may name, and the workers that have read them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from onestroke.core import GenerationRequest
from onestroke.errors import InvalidRequest, Unavailable, from_wire
from onestroke.models.specs import AdapterSpec
from onestroke.scheduling.link import Link
from onestroke.workers.messages import AdapterAdded, AddAdapter, Ready, RemoveAdapter

log = structlog.get_logger(__name__)

READ_WITHIN = 60.0


class Adapters:
    """`known` may be named. Workers read the first of them as they load, and later ones when they are added.

    `until_ready` says in how many seconds a worker will be ready.
    """

    def __init__(self, until_ready: Callable[[], float]) -> None:
        self.known: dict[str, AdapterSpec] = {}
        self._until_ready = until_ready
        self._models: dict[str, tuple[str, ...]] = {}
        self._ready: dict[str, Link] = {}
        self._reading: dict[str, dict[str, asyncio.Future[None]]] = {}
        """Of those that are being added, by the workers' names."""

    def of(self, model: str) -> list[str]:
        """The names of those that are for `model`, as far as the workers have said it."""
        return [name for name in self.known if model in self._models.get(name, (model,))]

    def check(self, request: GenerationRequest) -> None:
        """Raise InvalidRequest for one that is not there for the request's model."""
        known = self.of(request.model) if request.adapters else []
        for use in request.adapters:
            if use.name not in known:
                there = ", ".join(known) or "none"
                raise InvalidRequest(
                    f"there is no adapter {use.name!r} for {request.model}; there are: {there}", "adapters"
                )

    async def add(self, adapter: AdapterSpec) -> None:
        """Have every worker read it; from then on requests may name it.

        Raises InvalidRequest for a name that is taken, ModelError for what cannot be read, Unavailable while no
        worker is ready.
        """
        if adapter.name in {*self.known, *self._reading}:
            raise InvalidRequest(f"there is an adapter {adapter.name!r} already: delete it first", "name")
        asked = dict(self._ready)
        if not asked:
            raise Unavailable("no worker is ready yet", retry_after=self._until_ready())
        loop = asyncio.get_running_loop()
        reading = self._reading[adapter.name] = {name: loop.create_future() for name in asked}
        for link in asked.values():
            link.send(AddAdapter(adapter))
        try:
            async with asyncio.timeout(READ_WITHIN):
                answers = await asyncio.gather(*reading.values(), return_exceptions=True)
            for error in filter(None, answers):
                raise error
        except TimeoutError as error:
            raise Unavailable(f"the adapter {adapter.name!r} was not read in time") from error
        else:
            self.known[adapter.name] = adapter
            for link in self._ready.values():
                if link not in asked.values():
                    link.send(AddAdapter(adapter))  # it became ready meanwhile
        finally:
            del self._reading[adapter.name]
            if adapter.name not in self.known:
                self._tell_to_remove(adapter.name)

    def remove(self, name: str) -> None:
        """No request may name it any more; pictures that were accepted with it and are not begun fail.

        Raises InvalidRequest for one that is not there.
        """
        if self.known.pop(name, None) is None:
            raise InvalidRequest(f"there is no adapter {name!r}", "name")
        self._tell_to_remove(name)

    def _tell_to_remove(self, name: str) -> None:
        for link in self._ready.values():
            link.send(RemoveAdapter(name))

    # -- what workers say -----------------------------------------------------------------------------------

    def on_ready(self, link: Link, reply: Ready) -> None:
        """It is given what it lacks."""
        self._ready[link.name] = link
        self._models.update(reply.adapters)
        for adapter in self.known.values():
            if adapter.name not in reply.adapters:
                link.send(AddAdapter(adapter))

    def on_added(self, link: Link, reply: AdapterAdded) -> None:
        if not reply.error:
            self._models[reply.name] = reply.models
        waiting = self._reading.get(reply.name, {}).get(link.name)
        if waiting is None or waiting.done():
            if reply.error:
                log.error("an adapter is lost", adapter=reply.name, reason=reply.error.message)
        elif reply.error:
            waiting.set_exception(from_wire(reply.error))
        else:
            waiting.set_result(None)

    def on_lost(self, link: Link) -> None:
        self._ready.pop(link.name, None)
        for reading in self._reading.values():
            if (waiting := reading.get(link.name)) and not waiting.done():
                error = Unavailable("the worker is restarting", retry_after=self._until_ready())
                waiting.set_exception(error)
