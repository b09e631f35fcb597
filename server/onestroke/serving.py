"""`onestroke serve`: uvicorn around the app, told to drain before it closes a socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys

import structlog
import uvicorn

from onestroke.api.context import Context
from onestroke.api.stream import MAX_TEXT
from onestroke.app import create_app
from onestroke.models.choosing import choose_all
from onestroke.scheduling.scheduler import Scheduler
from onestroke.sessions.shelf import MAX_BYTES
from onestroke.settings import Settings

log = structlog.get_logger(__name__)

BACKLOG = 2048
CLOSING_TIMEOUT = 3
"""Seconds that a drained server waits for peers that do not read or do not close."""

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: longer than a balancer keeps its own."""


class Server(uvicorn.Server):
    """uvicorn closes sockets at the first signal; here accepted work is finished before that."""

    failed = False
    told = False

    def on_change(self, scheduler: Scheduler, url: str) -> None:
        """One clear line when pictures can be made; the end when they never will be, or are no longer to be."""
        if scheduler.ready and not self.told:
            self.told = True
            say(f"Ready: type at {url}")
        if scheduler.fatal:
            self.failed = self.should_exit = True
        if scheduler.draining:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Unready, sessions told, accepted work answered; then close. A second Ctrl-C cuts it short."""
        drained = asyncio.ensure_future(self._drained(self.config.app.state.context))  # type: ignore[union-attr]
        while not drained.done() and not self.force_exit:
            await asyncio.wait([drained], timeout=0.1)
        drained.cancel()
        await super().shutdown(sockets)

    async def _drained(self, context: Context) -> None:
        """Every picture answered, and every session that reads has it and is closed."""
        await context.scheduler.drained()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_TIMEOUT):
                while context.metrics.open_sessions:  # noqa: ASYNC110  an event for this would be more to own
                    await asyncio.sleep(0.02)


def run(settings: Settings) -> int:
    """Serve until a signal; returns the exit status. Raises ModelError when there is no such model."""
    configure_logging(settings)
    choices = choose_all(settings)
    for spec, why in choices:
        log.info("model", name=spec.name, source=spec.at, why=why, note=spec.note or None)
        log.info("licence", name=spec.licence.name, terms=spec.licence.terms, url=spec.licence.url or None)
        for control in spec.controls:
            terms = f"{control.licence.name}, {control.licence.terms}"
            log.info("ControlNet", name=control.name, source=control.weights.name, licence=terms)
    listener = bind(settings)
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    specs = [choice.spec for choice in choices]
    app = create_app(settings, specs, on_change=lambda scheduler: server.on_change(scheduler, url))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=17.0,
        ws_ping_timeout=20.0,
        ws_max_size=MAX_BYTES + MAX_TEXT,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=CLOSING_TIMEOUT,
        server_header=False,
        lifespan="on",
    )
    server = Server(config)
    say(f"Onestroke is at {url}; the page shows the warm-up")
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 1 if server.failed else 0


def say(line: str) -> None:
    """A line for people, whatever the log's format and level."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def bind(settings: Settings) -> socket.socket:
    """The listening socket, made before anything slow. Raises SystemExit with the cure when the port is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)  # from here on a caller waits instead of being refused
    except OSError as error:
        reason = error.strerror or str(error)
        raise SystemExit(
            f"onestroke: cannot listen on {settings.host}:{settings.port} ({reason}); "
            "choose another with --port, or --port 0 for any free one"
        ) from error
    return listener


def configure_logging(settings: Settings) -> None:
    """structlog for everything, uvicorn's own lines included only from warnings up."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if settings.log_format == "json" else "%H:%M:%S"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # uvicorn says so of every socket that is refused with an answer
    logging.getLogger("uvicorn.error").addFilter(lambda line: "completing handshake" not in line.getMessage())
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
