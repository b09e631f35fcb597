"""Copies between host and device beside what the device computes: pinned, on a stream of their own, event-guarded.

On a device without streams the same calls copy at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


def side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


class Upload(NamedTuple):
    """A tensor on its way to the device; `arrived` is None where it is there already."""

    tensor: torch.Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> torch.Tensor:
        """The tensor, safe to use on the current stream from here on."""
        if self.arrived is not None:
            self.arrived.wait()
        return self.tensor


class Transfers:
    """Single tensors up (from any thread) and results down."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = side_stream(device) if device.type == "cuda" else None

    def up(self, tensor: torch.Tensor) -> Upload:
        """Send `tensor` beside the running pass; it is meant for the default stream."""
        if self._stream is None:
            return Upload(tensor.to(self.device), None)
        with torch.cuda.stream(self._stream):
            # The allocator of pinned memory keeps the host's copy until the stream has read it.
            sent = tensor.pin_memory().to(self.device, non_blocking=True)
            arrived = self._stream.record_event()
        sent.record_stream(torch.cuda.default_stream(self.device))
        return Upload(sent, arrived)

    def down(self, *tensors: torch.Tensor) -> Download:
        """Send results to the host behind the work that makes them; what follows on the device is not held up."""
        if self._stream is None:
            return Download(tuple(tensor.cpu() for tensor in tensors), None)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        hosts = tuple(torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in tensors)
        with torch.cuda.stream(self._stream):
            for host, tensor in zip(hosts, tensors, strict=True):
                host.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._stream)
            return Download(hosts, self._stream.record_event())


class Download(NamedTuple):
    """Results on their way to the host."""

    tensors: tuple[torch.Tensor, ...]
    arrived: torch.cuda.Event | None

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The results, once they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensors


class Staging:
    """Batches of up to `rows` rows to the device through two buffers in turn.

    While the device still reads one batch the next is written and copied. What `put` returns holds until the
    second `put` after it, provided that `taken` is called behind the work that reads it.
    """

    def __init__(
        self,
        rows: int,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        stream: torch.cuda.Stream | None,
    ) -> None:
        pinned = stream is not None
        self._stream = stream
        self._host = [torch.zeros(rows, *shape, dtype=dtype, pin_memory=pinned) for _ in range(2)]
        self._device = [host.to(device) if pinned else host for host in self._host]
        self._copied = [_event() for _ in range(2)] if pinned else []
        self._read = [_event() for _ in range(2)] if pinned else []
        self._turn = 0

    def put(self, batch: torch.Tensor) -> torch.Tensor:
        """A copy of `batch` (n, ...) on the device, ready for the current stream."""
        turn = self._turn = 1 - self._turn
        host, there = self._host[turn][: len(batch)], self._device[turn][: len(batch)]
        if self._stream is None:
            return host.copy_(batch)
        self._copied[turn].synchronize()  # the copy before last has left the host's buffer
        host.copy_(batch)
        with torch.cuda.stream(self._stream):
            self._read[turn].wait()  # and the device has read what it brought
            there.copy_(host, non_blocking=True)
            self._copied[turn].record()
        self._copied[turn].wait()
        return there

    def taken(self) -> None:
        """What the last `put` returned has been read by the work queued so far."""
        if self._stream is not None:
            self._read[self._turn].record()
