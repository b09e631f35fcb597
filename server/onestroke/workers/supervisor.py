"""Keeps one worker process alive: spawns it, carries its messages, starts it again when it dies.

Every incarnation has its own pipe and its own two threads, so that a stopped or hung process can never block
the event loop, and what an earlier incarnation still says can be told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import queue
import signal
import threading
from typing import Protocol

import structlog

from onestroke.workers.engine import WorkerConfig
from onestroke.workers.messages import DEVICE_LOST, Command, Failed, Ready, Reply, Stop
from onestroke.workers.process import main as worker_main

log = structlog.get_logger(__name__)

LONGEST_BACKOFF = 30.0
STOP_TIMEOUT = 5.0
QUEUED_COMMANDS = 10_000
"""Commands that a process may leave unread before it counts as hung."""


class Listener(Protocol):
    """What hears of a worker's life, always on the event loop."""

    def on_start(self, link: Incarnation) -> None: ...
    def on_reply(self, link: Incarnation, reply: Reply) -> None: ...
    def on_lost(self, link: Incarnation, reason: str) -> None: ...


class Incarnation:
    """One spawned process. `send` never blocks; `exited` is set, on the loop, when it is gone."""

    def __init__(self, name: str, config: WorkerConfig, listener: Listener) -> None:
        self.name = name
        self.exited = asyncio.Event()
        self.was_ready = False
        self.failed: Failed | None = None
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._reason: str | None = None
        self._outgoing: queue.Queue[Command | None] = queue.Queue(QUEUED_COMMANDS)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=worker_main, args=(theirs, config), name=f"onestroke-{name}", daemon=True
        )
        self.process.start()
        theirs.close()
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"{name}-{target.__name__}", daemon=True).start()

    def send(self, command: Command) -> None:
        try:
            self._outgoing.put_nowait(command)
        except queue.Full:
            self.kill("hang")

    def kill(self, reason: str) -> None:
        """End the process at once; its death is reported with this reason."""
        self._reason = self._reason or reason
        self.process.kill()

    def _write(self) -> None:
        while (command := self._outgoing.get()) is not None:
            with contextlib.suppress(OSError):
                self._connection.send(command)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                reply = self._connection.recv()
                self._loop.call_soon_threadsafe(self._heard, reply)
        self.process.join()
        self._outgoing.put(None)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._gone)

    def _heard(self, reply: Reply) -> None:
        if isinstance(reply, Ready):
            self.was_ready = True
        if isinstance(reply, Failed):
            self.failed = reply
        self._listener.on_reply(self, reply)

    def _gone(self) -> None:
        self._connection.close()
        self.exited.set()
        self._listener.on_lost(self, self._reason or self._how_it_ended())

    def _how_it_ended(self) -> str:
        """A word for the log and the metrics' label."""
        code = self.process.exitcode or 0
        if self.failed:
            return "failed"
        if code == DEVICE_LOST:
            return "device lost"
        return signal.Signals(-code).name if code < 0 else f"exit {code}"


class Supervisor:
    """Runs incarnations one after the other until stopped, or until the model proves impossible to load."""

    def __init__(self, name: str, config: WorkerConfig, listener: Listener) -> None:
        self.name = name
        self.incarnation: Incarnation | None = None
        self._config = config
        self._listener = listener
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"supervisor-{self.name}")

    async def stop(self) -> None:
        """Let the process finish what runs, then make sure that it is gone."""
        self._stopping = True
        if self.incarnation and not self.incarnation.exited.is_set():
            self.incarnation.send(Stop())
            try:
                await asyncio.wait_for(self.incarnation.exited.wait(), STOP_TIMEOUT)
            except TimeoutError:
                self.incarnation.kill("stop")
                await self.incarnation.exited.wait()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        ever_ready, backoff = False, 0.5
        while not self._stopping:
            # spawning blocks the loop for some milliseconds of fork and exec, once a life
            self.incarnation = incarnation = Incarnation(self.name, self._config, self._listener)
            self._listener.on_start(incarnation)
            await incarnation.exited.wait()
            ever_ready |= incarnation.was_ready
            if incarnation.failed and not ever_ready:
                log.error("the model cannot be served", reason=incarnation.failed.error.message)
                return
            if incarnation.was_ready:
                backoff = 0.5
            else:
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, LONGEST_BACKOFF)
