"""A function over a batch, in fixed buckets and from static buffers: what a CUDA graph needs, for every device.

A call with n rows runs in the smallest bucket that holds them. Inputs are gathered in buffers that never move,
rows beyond n are zeros, and results leave the buffers before anything else can write there. Where there are
graphs the run is recorded once for each bucket and shape and then replayed; a device without graphs calls the
function itself, and so does CUDA for shapes that were not recorded before the recorder was closed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from onestroke.pipelines.transfer import Staging, side_stream

Outputs = tuple[torch.Tensor, ...]
Run = Callable[[], Outputs]
Input = torch.Tensor | Sequence[torch.Tensor]
"""A batch (n, ...) on the host, or n rows on the device."""


class Recorder(Protocol):
    """Turns a run into one that is replayed. `is_open`: whether new ones are recorded still."""

    is_open: bool

    def record(self, run: Run) -> Run:
        """A run that does the same from the same buffers into the same results, which it overwrites."""
        ...


@contextmanager
def recording(recorder: Recorder | None) -> Iterator[None]:
    """Within it what has not been recorded is."""
    if recorder is None:
        yield
        return
    recorder.is_open = True
    try:
        yield
    finally:
        recorder.is_open = False


class CudaGraphs:
    """CUDA graphs out of one memory pool, recorded and replayed on the one thread that owns the device.

    They share the pool because results are copied out before the next replay.
    """

    WARM_UP = 3
    """Runs before a recording: kernels are compiled and chosen in them, and workspaces allocated."""

    def __init__(self, device: torch.device) -> None:
        self.is_open = False
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = side_stream(device)

    def record(self, run: Run) -> Run:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(self.WARM_UP):
                run()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may prepare rows meanwhile: only this one's calls are looked at.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            outputs = run()

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


class Graphed:
    """`function` over batches; each input and each result has a row for each row of the batch.

    `buckets` rise. Rows are a function of their own inputs as long as `function` keeps rows apart.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        *,
        buckets: tuple[int, ...],
        device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:
        self.function = function
        self.buckets = buckets
        self.device = device
        self.recorder = recorder
        self._stream = side_stream(device) if device.type == "cuda" else None
        self._buffers: dict[Hashable, _Buffer] = {}
        self._replays: dict[tuple[int, tuple[Hashable, ...]], Run] = {}

    @property
    def recorded(self) -> list[int]:
        """The buckets that are replayed, once for each of their shapes."""
        return sorted(bucket for bucket, _ in self._replays)

    def bucket(self, n: int) -> int:
        """The smallest bucket that holds `n` rows. Raises ValueError beyond the largest."""
        for bucket in self.buckets:
            if n <= bucket:
                return bucket
        raise ValueError(f"{n} rows are more than the largest bucket, {self.buckets[-1]}")

    @torch.inference_mode()
    def __call__(self, *inputs: Input) -> Outputs:
        """The results (n, ...), the caller's own: no later call changes them."""
        n = len(inputs[0])
        bucket = self.bucket(n)
        buffers = [self._buffer(index, rows) for index, rows in enumerate(inputs)]
        views = [buffer.fill(rows, bucket) for buffer, rows in zip(buffers, inputs, strict=True)]

        def run() -> Outputs:
            return self.function(*views)

        key = (bucket, tuple(buffer.key for buffer in buffers))
        if self.recorder is not None and self.recorder.is_open and key not in self._replays:
            self._replays[key] = self.recorder.record(run)
        if (replay := self._replays.get(key)) is None:
            return tuple(output[:n] for output in run())
        return tuple(output[:n].clone() for output in replay())

    def _buffer(self, index: int, rows: Input) -> _Buffer:
        like = rows if isinstance(rows, torch.Tensor) else rows[0]
        shape = like.shape[1:] if isinstance(rows, torch.Tensor) else like.shape
        key = (index, tuple(shape), like.dtype)
        if key not in self._buffers:
            staged = isinstance(rows, torch.Tensor)
            self._buffers[key] = _Buffer(
                key, self.buckets[-1], shape, like.dtype, self.device, self._stream, staged=staged
            )
        return self._buffers[key]


class _Buffer:
    """One input's rows, for the largest bucket; smaller ones use its beginning."""

    def __init__(
        self,
        key: Hashable,
        rows: int,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        stream: torch.cuda.Stream | None,
        *,
        staged: bool,
    ) -> None:
        self.key = key
        self._rows = torch.zeros(rows, *shape, dtype=dtype, device=device)
        self._used = 0
        self._staging = Staging(rows, shape, dtype, device, stream) if staged else None

    def fill(self, rows: Input, bucket: int) -> torch.Tensor:
        """The first `bucket` rows: `rows`, then zeros."""
        n = len(rows)
        if self._staging is not None:
            assert isinstance(rows, torch.Tensor)
            self._rows[:n].copy_(self._staging.put(rows))
            self._staging.taken()
        else:
            torch.stack(list(rows), out=self._rows[:n])
        self._rows[n : max(self._used, n)].zero_()
        self._used = n
        return self._rows[:bucket]
