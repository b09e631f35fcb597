"""One UNet forward over rows that differ in step, sampler, seed, prompt and guidance, and the step it makes.

All of it is one function over a batch of UNet rows, table arithmetic and guidance included, so that it can be
recorded as one graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from onestroke.pipelines.graphs import Graphed, Recorder
from onestroke.pipelines.samplers import Step
from onestroke.pipelines.text import Embedding

Residuals = tuple[torch.Tensor, ...]
"""What a ControlNet adds to a UNet's skips, from the first to the last, and then to its middle."""
NOTHING: Mapping[int, Residuals] = MappingProxyType({})


class UnetRow(NamedTuple):
    """One row of the forward; a guided picture has two, of which the one with its text is read.

    `time_ids` are SDXL's micro-conditioning. `base` is the row without text that this one is guided away from:
    e = e[base] + guidance * (e - e[base]); an unguided row is its own base.
    """

    latents: torch.Tensor
    step: Step
    embedding: Embedding
    time_ids: tuple[int, ...]
    base: int
    guidance: float


class Denoiser:
    """The UNet and one step of any linear sampler, in fp32 around a network in `dtype`.

    `buckets` are the batch sizes it runs in, rising.
    """

    def __init__(
        self,
        unet: Any,
        *,
        buckets: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.channels_last,
        recorder: Recorder | None = None,
    ) -> None:
        self.unet = unet
        self.buckets = buckets
        self.device = device
        self.dtype = dtype
        self.memory_format = memory_format
        self.forwards = 0
        self.graphed = Graphed(self._advance, buckets=buckets, device=device, recorder=recorder)

    @property
    def channels(self) -> int:
        return int(self.unet.config.in_channels)

    def bucket(self, n: int) -> int:
        """The smallest bucket that holds `n` rows. Raises ValueError beyond the largest."""
        return self.graphed.bucket(n)

    def __call__(
        self, rows: Sequence[UnetRow], added: Mapping[int, Residuals] = NOTHING
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x' = a*x + b*e of each row (n, channels, h, w), fp32, and whether it is finite (n,); noise is not added.

        `added` is what a ControlNet says of some rows, by their place; it is nothing for the others. Raises
        ValueError for more rows than the largest bucket holds.
        """
        table = [
            (row.step.t, row.step.d, row.step.a, row.step.b, row.guidance, row.base, *row.time_ids)
            for row in rows
        ]
        latents, finite = self.graphed(
            [row.latents for row in rows],
            torch.tensor(table, dtype=torch.float32),
            [row.embedding.hidden for row in rows],
            [row.embedding.pooled for row in rows],
            *_laid_out(added, len(rows)),
        )
        self.forwards += 1
        return latents, finite

    def _advance(
        self,
        x: torch.Tensor,
        table: torch.Tensor,
        hidden: torch.Tensor,
        pooled: torch.Tensor,
        *added: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Padding rows hold zeros and cannot reach the others: nothing in a UNet mixes rows."""
        d, a, b, guidance = table[:, 1:5, None, None, None].unbind(1)
        e = self.unet(
            (x * d).to(self.dtype).contiguous(memory_format=self.memory_format),
            table[:, 0].contiguous(),
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": table[:, 6:].to(self.dtype)},
            down_block_additional_residuals=added[:-1] or None,
            mid_block_additional_residual=added[-1] if added else None,
            return_dict=False,
        )[0].float()
        base = e[table[:, 5].long()]
        x = x * a + (base + guidance * (e - base)) * b
        return x, torch.isfinite(x).flatten(1).all(1)


def _laid_out(added: Mapping[int, Residuals], n: int) -> list[list[torch.Tensor]]:
    """For each residual its `n` rows, zeros where nothing is added."""
    if not added:
        return []
    nothing = tuple(map(torch.zeros_like, next(iter(added.values()))))
    rows = [added.get(i, nothing) for i in range(n)]
    return [[row[level] for row in rows] for level in range(len(nothing))]
