"""What this device could do at best: its measured rates, and the time that one picture would take at them.

Rates, with the worker's threads and the dtype of the network, each the best of several shapes and repeats:
- gemm: a product of square matrices;
- conv: a 3x3 convolution, channels last, of the shapes that such models have most of; on a CPU with weights packed
  as ours are;
- copy: bytes read plus bytes written per second, over a block that fits in the caches and over one that does not.

The roofline of a stage is the sum over its operators of max(FLOP / rate, bytes in and out / copy rate), with the
larger copy rate on a CPU and memory's elsewhere; elementwise work counts as free, as if fused into its neighbours.
The operators are those that ours runs on a CPU, after all rewrites, and diffusers' elsewhere: a CUDA graph shows
nothing of what it replays. FLOPs are those of torch.utils.flop_counter: two for each multiplication and addition.
The figures of one picture divide a batch's by its size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from benchmarks.prompts import Prompts
from onestroke.pipelines.layers import Conv

_REPEATS = 7
_SMALLEST = 0.02
"""Seconds that one repeat lasts at least: shorter ones measure the clock."""

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Probes:
    """What is measured: sides of matrices; rows, channels, height, width of convolutions; bytes of two blocks."""

    gemm: tuple[int, ...]
    conv: tuple[Shape, ...]
    cache: int
    memory: int


CPU_PROBES = Probes(
    (1024, 1536, 2048),
    ((8, 160, 32, 32), (4, 160, 64, 64), (1, 32, 256, 256), (1, 64, 256, 256), (2, 256, 64, 64)),
    4 << 20,
    256 << 20,
)
GPU_PROBES = Probes(
    (4096, 8192),
    ((8, 320, 64, 64), (16, 640, 32, 32), (4, 512, 128, 128), (4, 256, 256, 256)),
    8 << 20,
    2 << 30,
)


@dataclass(frozen=True, slots=True)
class Op:
    kind: str
    flop: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOP/s and bytes/s. `copy_cache` is only used where all of a model's tensors may lie in caches."""

    gemm: float
    conv: float
    copy_cache: float
    copy_memory: float

    def seconds(self, op: Op) -> float:
        rate = self.conv if op.kind == "conv" else self.gemm
        return max(op.flop / rate, op.bytes / max(self.copy_cache, self.copy_memory))


A100 = Rates(gemm=312e12, conv=312e12, copy_cache=0.0, copy_memory=2.0e12)
"""By its data sheet (80 GB, half precision, dense). No program reaches that, so an A100 looks a little too fast."""


def measure(target: Any, batches: Sequence[int], prompts: Prompts) -> dict[str, Any]:
    """Rates in SI units, and for each batch and stage {"flop", "seconds", "a100_seconds"} of the whole batch."""
    rates = measure_rates(target.torch_dtype, torch.device(target.device))
    work = {}
    for n in batches:
        counted = target.count(prompts.take(n))
        work[str(n)] = {
            stage: {
                "flop": sum(op.flop for op in ops),
                "seconds": sum(map(rates.seconds, ops)),
                "a100_seconds": sum(map(A100.seconds, ops)),
            }
            for stage, ops in counted.items()
        }
    return {
        "rates": {name: getattr(rates, name) for name in Rates.__slots__},
        "work": work,
    }


@torch.inference_mode()
def measure_rates(dtype: torch.dtype, device: torch.device) -> Rates:
    on_cpu = device.type == "cpu"
    probes = CPU_PROBES if on_cpu else GPU_PROBES
    return Rates(
        gemm=max(_gemm(side, dtype, device) for side in probes.gemm),
        conv=max(_conv(shape, dtype, device) for shape in probes.conv),
        copy_cache=_copy(probes.cache, device) if on_cpu else 0.0,
        copy_memory=_copy(probes.memory, device),
    )


def _best(job: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the best of _REPEATS."""

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            job()
        synchronize(device)
        return (time.perf_counter() - start) / calls

    timed(1)
    calls = max(1, int(_SMALLEST / max(timed(1), 1e-7)))
    return min(timed(calls) for _ in range(_REPEATS))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def _gemm(side: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = torch.randn(2, side, side).to(device, dtype)
    return 2 * side**3 / _best(lambda: a @ b, device)


def _conv(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    n, channels, height, width = shape
    x = torch.randn(shape).to(device, dtype).contiguous(memory_format=torch.channels_last)
    weight = (torch.randn(channels, channels, 3, 3) / 50).to(device, dtype)
    if device.type == "cpu":
        run: Callable[[], object] = partial(Conv(weight, None), x)
    else:
        weight = weight.contiguous(memory_format=torch.channels_last)
        run = partial(torch.nn.functional.conv2d, x, weight, padding=1)
    return 2 * 9 * channels**2 * n * height * width / _best(run, device)


def _copy(bytes_: int, device: torch.device) -> float:
    """The block is `bytes_` long, so twice that is touched."""
    source = torch.ones(bytes_, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * bytes_ / _best(lambda: target.copy_(source), device)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operator that torch.utils.flop_counter knows, and those of the CPU that it does not.

    `stages` holds them by the `stage` that was set when they ran; what runs in no stage is not kept.
    """

    def __init__(self, stage: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stage = stage
        self.stages: dict[str, list[Op]] = {}

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
        if self.stage:
            op = Op("conv" if "conv" in name else "gemm", flop, touched)
            self.stages.setdefault(self.stage, []).append(op)
        return out


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _packed_conv(args: tuple[Any, ...], out: Any) -> int:
    """args are (x, weight, bias, ...) or, with a residual, (x, residual, weight, bias, ...)."""
    with_residual = isinstance(args[8], str)
    weight = args[2] if with_residual else args[1]
    return int(conv_flop_count(list(args[0].shape), list(weight.shape), list(out.shape)))


def _packed_linear(args: tuple[Any, ...], out: Any) -> int:
    return int(2 * args[0].numel() * out.shape[-1])


def _attention(args: tuple[Any, ...], _: object) -> int:
    """Two products: of queries (n, heads, length, width) with keys, and of what that gives with values."""
    query, key = args[:2]
    return int(4 * query.numel() * key.shape[-2])


_PACKED: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "_convolution_pointwise": _packed_conv,
    "_linear_pointwise": _packed_linear,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}
