"""The worker process: owns one device, takes passes in, gives finished and encoded pictures out.

Three threads: the receiver prepares rows while the device is busy and notices when the front is gone; the
main thread owns the device; an image thread turns pixels into JPEG, PNG or WebP off the device's path.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from onestroke.core import GenerationRequest
from onestroke.errors import DeviceLost, GenerationFailed, InvalidRequest, to_wire
from onestroke.models.specs import AdapterSpec
from onestroke.workers.engine import Engines, WorkerConfig, load_engines
from onestroke.workers.messages import (
    DEVICE_LOST,
    AdapterAdded,
    AddAdapter,
    Drop,
    Failed,
    Pass,
    PassDone,
    PictureDone,
    Prepare,
    Progress,
    Ready,
    RemoveAdapter,
    Reply,
    RowFailed,
    Sample,
    Stop,
)


def main(connection: Connection, config: WorkerConfig) -> None:
    """Entry point of the spawned process; returns when told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the front's to handle: it drains, then says Stop
    WorkerProcess(connection, config).run()


class WorkerProcess:
    def __init__(self, connection: Connection, config: WorkerConfig) -> None:
        self._connection = connection
        self._config = config
        self._sending = threading.Lock()
        self._passes: queue.SimpleQueue[Pass | None] = queue.SimpleQueue()
        self._rows: dict[int, Any] = {}
        self._step_seconds: dict[int, float] = {}
        self._encode_seconds: dict[int, float] = {}
        self._images = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._engine: Engines
        self._serving = False

    def run(self) -> None:
        threading.Thread(target=self._receive, name="receiver", daemon=True).start()
        try:
            self._engine = load_engines(self._config, self._report)
            samples = self._engine.warm_up(self._report)
        except Exception as error:
            self._send(Failed(to_wire(error)))
            return
        engine, self._serving = self._engine, True
        self._send(
            Ready(
                engine.device,
                engine.dtype,
                engine.threads,
                os.getpid(),
                tuple(samples),
                tuple(engine.notes()),
                engine.adapters,
            )
        )
        while (order := self._passes.get()) is not None:
            self._run_pass(order)
        self._images.shutdown()

    # -- receiver thread ------------------------------------------------------------------------------------

    def _receive(self) -> None:
        while True:
            try:
                command = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # the front is gone: nobody is left to answer
            match command:
                case Prepare():
                    for row_id, request in command.rows:
                        self._prepare(row_id, request)
                case Drop():
                    for row_id in command.rows:
                        self._forget(row_id)
                case Pass():
                    self._passes.put(command)
                case AddAdapter():
                    self._add_adapter(command.adapter)
                case RemoveAdapter():
                    self._engine.remove_adapter(command.name)
                case Stop():
                    if not self._serving:
                        os._exit(0)  # loading cannot be interrupted, and nothing is owed yet
                    self._passes.put(None)
                    return

    def _prepare(self, row_id: int, request: GenerationRequest) -> None:
        try:
            self._rows[row_id] = self._engine.prepare(row_id, request)
        except Exception as error:
            self._fail(row_id, error)

    def _add_adapter(self, adapter: AdapterSpec) -> None:
        try:
            self._send(AdapterAdded(adapter.name, self._engine.add_adapter(adapter)))
        except Exception as error:
            self._send(AdapterAdded(adapter.name, (), to_wire(error)))

    def _forget(self, row_id: int) -> None:
        self._rows.pop(row_id, None)
        self._step_seconds.pop(row_id, None)
        self._encode_seconds.pop(row_id, None)

    # -- device thread --------------------------------------------------------------------------------------

    def _run_pass(self, order: Pass) -> None:
        samples = [*self._switch(order), *self._encode(order), *self._step(order), *self._decode(order)]
        self._send(PassDone(order.id, tuple(samples)))

    def _switch(self, order: Pass) -> list[Sample]:
        """Merge the adapters that its rows share, where the pass before had others."""
        began, switched = time.perf_counter(), False

        def switch(part: Sequence[int]) -> None:
            nonlocal switched
            switched |= self._engine.switch([self._rows[row_id] for row_id in part])

        self._guarded(self._alive(order.step), switch)
        return [Sample(order.fit, "switch", 1, time.perf_counter() - began)] if switched else []

    def _alive(self, ids: Sequence[int]) -> list[int]:
        """Rows dropped or failed on the way are simply no longer there."""
        return [row_id for row_id in ids if row_id in self._rows]

    def _encode(self, order: Pass) -> list[Sample]:
        """A pass that also takes pictures in says nothing of what prompts cost."""
        began, ids = time.perf_counter(), order.encode
        rows = [row.request for row in map(self._rows.get, ids) if row]
        prompts_only = not any(each.image or each.control for each in rows)
        self._guarded(self._alive(ids), lambda part: self._engine.encode([self._rows[each] for each in part]))
        seconds, encoded = time.perf_counter() - began, self._alive(ids)
        self._encode_seconds.update(dict.fromkeys(encoded, seconds))
        return [Sample(order.fit, "encode", len(encoded), seconds)] if encoded and prompts_only else []

    def _step(self, order: Pass) -> list[Sample]:
        began, unet_rows, steered = time.perf_counter(), 0, 0

        def step(part: Sequence[int]) -> None:
            nonlocal unet_rows, steered
            rows = [self._rows[row_id] for row_id in part]
            for row in self._engine.step(rows).failed:
                self._fail(row.id, row.error or GenerationFailed("its step failed"))
            unet_rows += sum(row.request.unet_rows for row in rows)
            steered += sum(row.request.steered_rows for row in rows)

        self._guarded(self._alive(order.step), step)
        seconds = time.perf_counter() - began
        for row_id in self._alive(order.step):
            self._step_seconds[row_id] = self._step_seconds.get(row_id, 0.0) + seconds
        return [Sample(order.fit, "step", unet_rows, seconds, steered)] if unet_rows else []

    def _decode(self, order: Pass) -> list[Sample]:
        began, decoded = time.perf_counter(), 0

        def decode(part: Sequence[int]) -> None:
            nonlocal decoded
            asked = [self._rows[row_id] for row_id in part]
            for rows, arrays in self._engine.decode(asked):
                seconds = time.perf_counter() - began
                decoded += len(rows)
                for row, pixels in zip(rows, arrays, strict=True):
                    self._images.submit(self._finish, row, pixels, len(order.step), seconds)
            for row in asked:
                if row.error:
                    self._fail(row.id, row.error)

        self._guarded(self._alive(order.decode), decode)
        return [Sample(order.fit, "decode", decoded, time.perf_counter() - began)] if decoded else []

    def _guarded(self, ids: list[int], verb: Callable[[Sequence[int]], None]) -> None:
        """Run a verb; when it raises, halve the rows until only those that cannot be served fail."""
        if not ids:
            return
        try:
            verb(ids)
        except DeviceLost as error:
            self._die(error)
        except Exception as error:
            if len(ids) == 1:
                self._fail(ids[0], error)
                return
            half = len(ids) // 2
            self._guarded(self._alive(ids[:half]), verb)
            self._guarded(self._alive(ids[half:]), verb)

    def _die(self, error: DeviceLost) -> NoReturn:
        """Nothing works here any more. The front starts another process and replays the rows, one by one."""
        sys.stderr.write(f"onestroke worker: {error.message}\n")
        sys.stderr.flush()
        os._exit(DEVICE_LOST)

    # -- image thread ---------------------------------------------------------------------------------------

    def _finish(self, row: Any, pixels: Any, batch_size: int, decode_seconds: float) -> None:
        from onestroke.pipelines.images import encode_image  # late: the double's processes need no codecs

        began = time.perf_counter()
        if row.id not in self._rows:
            return
        try:
            data = encode_image(pixels, row.request)
        except Exception as error:
            self._fail(row.id, error)
            return
        done = PictureDone(
            row.id,
            data,
            row.truncated,
            row.revised_prompt,
            batch_size,
            self._encode_seconds.get(row.id, 0.0),
            self._step_seconds.get(row.id, 0.0),
            decode_seconds,
            time.perf_counter() - began,
        )
        self._forget(row.id)
        self._send(done)

    # -- any thread -----------------------------------------------------------------------------------------

    def _fail(self, row_id: int, error: Exception) -> None:
        self._forget(row_id)
        if not isinstance(error, InvalidRequest | GenerationFailed):
            error = GenerationFailed(f"{type(error).__name__}: {error}")
        self._send(RowFailed(row_id, to_wire(error)))

    def _report(self, stage: str, fraction: float) -> None:
        self._send(Progress(stage, fraction))

    def _send(self, reply: Reply) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(reply)
