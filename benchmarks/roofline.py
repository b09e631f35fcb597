"""What this processor could do at best: its measured rates, and the time that one picture would take at them.

Rates, with the worker's threads and the dtype of the network, each the best of several shapes and repeats:
- gemm: a matrix product of 1024 to 2048 on each side;
- conv: a 3x3 convolution, channels last, weights packed as ours are, of the shapes that the model has most of;
- copy: bytes read plus bytes written per second, over a block that fits in the caches and over one that does not.

The roofline of a stage is the sum over its operators (as ours runs them, after all rewrites) of
max(FLOP / rate, bytes in and out / copy rate), with the larger copy rate; elementwise work counts as free, as if
fused into its neighbours. FLOPs are those of torch.utils.flop_counter: two for each multiplication and addition.
The figures of one picture divide a batch's by its size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from benchmarks.prompts import Prompts
from onestroke.pipelines.layers import Conv

_REPEATS = 7
_CONVOLUTIONS = ((8, 160, 32, 32), (4, 160, 64, 64), (1, 32, 256, 256), (1, 64, 256, 256), (2, 256, 64, 64))
"""Rows, channels, height, width."""
_SMALLEST = 0.02
"""Seconds that one repeat lasts at least: shorter ones measure the clock."""


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOP/s and bytes/s."""

    gemm: float
    conv: float
    copy_cache: float
    copy_memory: float

    def seconds(self, kind: str, flop: float, bytes_: float) -> float:
        rate = self.conv if kind == "conv" else self.gemm
        return max(flop / rate, bytes_ / max(self.copy_cache, self.copy_memory))


def measure(target: Any, batches: Sequence[int], prompts: Prompts) -> dict[str, Any]:
    """Rates in SI units, and for each batch and stage {"flop", "seconds"} of the whole batch."""
    dtype = target.pipeline.dtype
    rates = measure_rates(dtype)
    work = {}
    for n in batches:
        counted = count(target, prompts.take(n))
        work[str(n)] = {
            stage: {"flop": sum(op.flop for op in ops), "seconds": sum(rates.seconds(*op) for op in ops)}
            for stage, ops in counted.items()
        }
    return {
        "rates": {name: getattr(rates, name) for name in Rates.__slots__},
        "work": work,
    }


@torch.inference_mode()
def measure_rates(dtype: torch.dtype) -> Rates:
    return Rates(
        gemm=max(_gemm(side, dtype) for side in (1024, 1536, 2048)),
        conv=max(
            _conv(*shape, dtype)
            for shape in (
                (8, 160, 32, 32),
                (4, 160, 64, 64),
                (1, 32, 256, 256),
                (1, 64, 256, 256),
                (2, 256, 64, 64),
            )
        ),
        copy_cache=_copy(4 << 20),
        copy_memory=_copy(256 << 20),
    )


def _best(job: Callable[[], object]) -> float:
    """Seconds of one call, the best of _REPEATS."""
    job()
    start = time.perf_counter()
    job()
    calls = max(1, int(_SMALLEST / max(time.perf_counter() - start, 1e-7)))
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            job()
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def _gemm(side: int, dtype: torch.dtype) -> float:
    a, b = torch.randn(2, side, side).to(dtype)
    return 2 * side**3 / _best(lambda: a @ b)


def _conv(n: int, channels: int, height: int, width: int, dtype: torch.dtype) -> float:
    x = torch.randn(n, channels, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    conv = Conv(torch.randn(channels, channels, 3, 3).to(dtype) / 50, None)
    return 2 * 9 * channels**2 * n * height * width / _best(lambda: conv(x))


def _copy(bytes_: int) -> float:
    """The block is `bytes_` long, so twice that is touched."""
    source = torch.ones(bytes_, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * bytes_ / _best(lambda: target.copy_(source))


@dataclass(frozen=True, slots=True)
class Op:
    kind: str
    flop: float
    bytes: float

    def __iter__(self) -> Any:
        return iter((self.kind, self.flop, self.bytes))


def count(target: Any, prompts: Sequence[str]) -> dict[str, list[Op]]:
    """The operators with arithmetic that drawing one batch runs, by stage."""
    pipeline = target.pipeline
    ops: dict[str, list[Op]] = {}
    rows = target._rows(prompts)
    for stage, run in (
        ("text", lambda: pipeline.encode(rows)),
        ("unet", lambda: target._step(rows)),
        ("decode", lambda: list(pipeline.decode(rows))),
    ):
        with Recorder() as recorder:
            run()
        ops[stage] = recorder.ops
    return ops


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that torch.utils.flop_counter knows, and oneDNN's packed ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        name = packet.__name__
        if packet not in flop_registry and name not in _PACKED and func.namespace == "aten":
            with self:
                done = func.decompose(*args, **kwargs)
            if done is not NotImplemented:
                return done
        out = func(*args, **kwargs)
        if name in _PACKED:
            flop = float(_PACKED[name](args, out))
        elif packet in flop_registry:
            flop = float(flop_registry[packet](*args, **kwargs, out_val=out))
        else:
            return out
        touched = sum(
            _bytes(leaf) for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)
        )
        self.ops.append(Op("conv" if "conv" in name else "gemm", flop, touched))
        return out


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _packed_conv(args: tuple[Any, ...], out: torch.Tensor) -> int:
    """args are (x, weight, bias, ...) or, with a residual, (x, residual, weight, bias, ...)."""
    with_residual = isinstance(args[8], str)
    weight = args[2] if with_residual else args[1]
    return int(conv_flop_count(list(args[0].shape), list(weight.shape), list(out.shape)))


def _packed_linear(args: tuple[Any, ...], out: torch.Tensor) -> int:
    return int(2 * args[0].numel() * out.shape[-1])


_PACKED: dict[str, Callable[[tuple[Any, ...], torch.Tensor], int]] = {
    "_convolution_pointwise": _packed_conv,
    "_linear_pointwise": _packed_linear,
}
