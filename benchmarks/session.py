"""What the parts of one run share: the report, fresh prompts, and processes that start once and end together."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType

from benchmarks import machine
from benchmarks.children import Child, child
from benchmarks.options import Options
from benchmarks.prompts import Prompts
from benchmarks.results import Report
from benchmarks.serving import OURS, Running, Server, running


def say(text: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class Session:
    """A context; leaving it ends every process that it started."""

    def __init__(self, options: Options, command: str) -> None:
        self.options = options
        self._command = command
        self._stack = ExitStack()
        self._children: dict[str, Child] = {}
        self._servers: dict[str, Running] = {}
        self._streams = 0

    def __enter__(self) -> Session:
        try:
            ours = self.child("ours")
        except BaseException:
            self._stack.close()
            raise
        self.report = Report(
            device=machine.device_name(ours.device),
            torch=machine.torch_version(),
            commit=machine.commit(),
            threads=ours.threads,
            model=f"{ours.model}, {ours.dtype}, weights {ours.weights}",
            command=self._command,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def streams(self, n: int = 1) -> int:
        """The first of `n` numbers of prompt streams that nobody else in this run has (see Prompts)."""
        self._streams += n
        return self._streams - n

    def prompts(self) -> Prompts:
        return Prompts(self.options.seed, self.streams())

    def child(self, target: str) -> Child:
        """The process with that pipeline in it, warm."""
        if target not in self._children:
            say(f"loading {target}")
            options = self.options
            self._children[target] = self._stack.enter_context(
                child(
                    target, options.model, seed=options.seed, stream=self.streams(), batches=options.batches
                )
            )
        return self._children[target]

    def server(self, server: Server) -> Running:
        """That server, warm. Its start-up is measured on the way."""
        if server.name not in self._servers:
            say(f"starting the {server.name or 'onestroke'} server")
            started = self._stack.enter_context(running(server, self.options.model))
            self._servers[server.name] = started
            if server is OURS:
                self.report.add("start.page_s", started.alive_seconds, "s")
            self.report.add(f"{server.prefix}start.ready_s", started.ready_seconds, "s")
        return self._servers[server.name]
