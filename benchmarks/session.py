"""What the parts of one run share: the report, fresh prompts, and processes that start once and end together."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from benchmarks import machine
from benchmarks.children import Child, child
from benchmarks.options import Decoder, ModelOptions, Options
from benchmarks.peers import SERVERS, missing
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
        self._children: dict[tuple[str, Decoder, str], Child] = {}
        self._servers: dict[tuple[str, Decoder], Running] = {}
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
            driver=machine.driver_of(ours.device),
            threads=ours.threads,
            model=f"{ours.model}, {ours.dtype}, weights {ours.weights}",
            command=self._command,
        )
        self.options = self.options.on(ours.device)
        self.peers = [*filter(self._is_here, (each for each in SERVERS if each.name in self.options))]
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

    def _is_here(self, server: Server) -> bool:
        if missing(server):
            say(f"{server.name} is not installed and left out; to have it: {SERVERS[server]}")
        return not missing(server)

    def _model(self, decoder: Decoder, model: str = "") -> ModelOptions:
        options = self.options.model
        largest = max(options.max_batch, *self.options.batches)
        # A named decoder draws everything; otherwise typists may get another than REST.
        levers = options.levers | ({"decoder": "full"} if decoder.name else {})
        return replace(
            options, model=model or options.model, vae=decoder.vae, max_batch=largest, levers=levers
        )

    def child(self, target: str, decoder: Decoder | None = None, model: str = "") -> Child:
        """The process with that pipeline in it, warm; `decoder` None is the main one, `model` "" the run's."""
        options, decoder = self.options, decoder or self.options.main
        if (target, decoder, model) not in self._children:
            say(f"loading {target}{decoder.word} {model}")
            self._children[target, decoder, model] = self._stack.enter_context(
                child(
                    target,
                    self._model(decoder, model),
                    seed=options.seed,
                    stream=self.streams(),
                    batches=options.ends if target == "diffusers_compiled" else options.batches,
                    compile_mode=options.compile_mode,
                )
            )
        return self._children[target, decoder, model]

    def server(self, server: Server, decoder: Decoder | None = None) -> Running:
        """That server, warm; `decoder` None is the main one. Its start-up is measured on the way."""
        main = self.options.main
        decoder = decoder or main
        if (server.name, decoder) not in self._servers:
            say(f"starting the {server.name or 'onestroke'} server{decoder.word}")
            started = self._stack.enter_context(running(server, self._model(decoder)))
            self._servers[server.name, decoder] = started
            if decoder == main:
                if server is OURS:
                    self.report.add("start.page_s", started.alive_seconds, "s")
                self.report.add(f"{server.prefix}start.ready_s", started.ready_seconds, "s")
        return self._servers[server.name, decoder]
