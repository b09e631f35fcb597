"""The UNet's attention: fused projections, keys and values made with the prompt, and the kernel behind it.

*Keys and values.* What cross-attention reads of a prompt depends on the prompt alone: 140 small products a step in
SDXL. `KeysAndValues` makes all of them in one product while the prompt is encoded; the UNet then takes the result
where it takes the text, and each block reads its own part.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from onestroke.errors import ModelError

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_ANY = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""What serves where the chosen kernel cannot: masks, wide heads, other dtypes."""

Shape = tuple[tuple[int, ...], tuple[int, ...]]
"""Of the query and of the key, each (batch, heads, tokens, features)."""


class KeysAndValues(nn.Module):
    """(n, tokens, features) of text to (n, tokens, total): every block's key and value beside each other."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(hidden, self.weight)


class ReadsItsPart(nn.Module):
    """A transformer block that is given all keys and values and reads its own."""

    def __init__(self, block: nn.Module, start: int, stop: int) -> None:
        super().__init__()
        self.block, self.start, self.stop = block, start, stop

    def forward(self, hidden_states: torch.Tensor, **others: Any) -> torch.Tensor:
        others["encoder_hidden_states"] = others["encoder_hidden_states"][..., self.start : self.stop]
        out: torch.Tensor = self.block(hidden_states, **others)
        return out


class Processor:
    """diffusers' AttnProcessor2_0 without what an SDXL-shaped UNet has no use for.

    `fused`: the module has `to_qkv`. `ready`: what it is given as text are its keys and values. `xformers`: that
    library's kernel in place of torch's.
    """

    def __init__(self, *, fused: bool = False, ready: bool = False, xformers: bool = False) -> None:
        self.fused, self.ready, self.xformers = fused, ready, xformers

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.fused:
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        elif self.ready:
            q, (k, v) = attn.to_q(hidden_states), text.chunk(2, dim=-1)
        else:
            q, k, v = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        q, k, v = (each.unflatten(-1, (attn.heads, -1)) for each in (q, k, v))
        if self.xformers:
            from xformers.ops import memory_efficient_attention

            mixed = memory_efficient_attention(q, k, v)
        else:
            mixed = functional.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v)))
            mixed = mixed.transpose(1, 2)
        out: torch.Tensor = attn.to_out[0](mixed.flatten(2))
        return out


def rebuild(unet: Any, *, fuse: bool, encode_kv: bool, xformers: bool = False) -> KeysAndValues | None:
    """Fuse `unet`'s self-attention and take its cross-attention's keys and values out, as asked, in place.

    Returns what makes the keys and values, None if they stay where they are. Raises ModelError for attention of
    another kind than SDXL's.
    """
    blocks = [each for each in unet.modules() if isinstance(each, BasicTransformerBlock)]
    if not (fuse or encode_kv or xformers):
        return None
    if unknown := next((block for block in blocks if not _is_known(block)), None):
        raise ModelError(
            "this UNet's attention is of a kind that is not rebuilt here: use --fuse off --encode-kv off "
            f"and no --attention xformers ({type(unknown).__name__})"
        )
    for block in blocks:
        if fuse:
            with torch.no_grad():
                block.attn1.fuse_projections()
            del block.attn1.to_q, block.attn1.to_k, block.attn1.to_v
        block.attn1.set_processor(Processor(fused=fuse, xformers=xformers))
        block.attn2.set_processor(Processor(ready=encode_kv, xformers=xformers))
    return _take_out(unet) if encode_kv and blocks else None


def _take_out(unet: Any) -> KeysAndValues:
    weights: list[torch.Tensor] = []
    at = 0
    for parent in list(unet.modules()):
        for name, block in list(parent.named_children()):
            if isinstance(block, BasicTransformerBlock):
                own = [block.attn2.to_k.weight.data, block.attn2.to_v.weight.data]
                del block.attn2.to_k, block.attn2.to_v
                width = sum(len(weight) for weight in own)
                setattr(parent, name, ReadsItsPart(block, at, at + width))
                weights += own
                at += width
    return KeysAndValues(torch.cat(weights))


def _is_known(block: Any) -> bool:
    first, second = block.attn1, block.attn2
    return (
        not block.only_cross_attention
        and second is not None
        and second.is_cross_attention
        and second.to_k.bias is second.to_v.bias is None
        and all(
            each.spatial_norm is each.group_norm is each.norm_q is each.norm_k is each.norm_cross is None
            and not each.residual_connection
            and each.rescale_output_factor == 1
            and each.scale_qk
            for each in (first, second)
        )
    )


def kernel(name: str) -> AbstractContextManager[None]:
    """Within it torch's attention is `name`'s where that can serve; torch's own choice for any other name."""
    if name not in BACKENDS:
        return nullcontext()
    found: AbstractContextManager[None] = sdpa_kernel([BACKENDS[name], *_ANY], set_priority=True)
    return found


class _Shapes(TorchFunctionMode):
    """Counts the shapes that attention is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Shape] = Counter()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.scaled_dot_product_attention:
            self.seen[tuple(args[0].shape), tuple(args[1].shape)] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def counted_shapes() -> Iterator[Counter[Shape]]:
    """The shapes of every unmasked attention within, and how often each is asked for."""
    with _Shapes() as mode:
        yield mode.seen


Clock = Callable[[Callable[[], object]], float]
"""Seconds that a call takes."""


def fastest(
    shapes: Counter[Shape], device: torch.device, dtype: torch.dtype, clock: Clock
) -> tuple[str, dict[str, float]]:
    """The kernel that does all of `shapes` in the least time, and the seconds of each that can serve them."""
    inputs = [
        [torch.randn(each, device=device, dtype=dtype) for each in (query, key)]
        for query, key in shapes.elements()
    ]

    def run() -> None:
        for query, key in inputs:
            functional.scaled_dot_product_attention(query, key, key)

    seconds: dict[str, float] = {}
    for name, backend in BACKENDS.items():
        if name == "math":
            continue
        try:
            with sdpa_kernel(backend):
                seconds[name] = clock(run)
        except RuntimeError:  # no kernel of that kind for this dtype, shape or card
            continue
    return min(seconds, key=lambda name: seconds[name], default="math"), seconds


def device_clock(device: torch.device, repeats: int = 5) -> Clock:
    """The best of some repeats; on CUDA a recorded graph is timed, so that launches do not count."""

    def best(call: Callable[[], object]) -> float:
        call()
        found = math.inf
        if device.type != "cuda":
            for _ in range(repeats):
                began = time.perf_counter()
                call()
                found = min(found, time.perf_counter() - began)
            return found
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        for _ in range(repeats):
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            graph.replay()
            torch.cuda.synchronize(device)
            found = min(found, time.perf_counter() - began)
        return found

    return best


def has_xformers() -> bool:
    return find_spec("xformers") is not None
