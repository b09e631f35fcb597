"""One UNet forward over rows that differ in step, sampler, seed, prompt and guidance, and the step it makes.

All of it is one function over a batch of UNet rows, table arithmetic and guidance included, so that it can be
recorded as one graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from diffusers.models.embeddings import get_timestep_embedding

from onestroke.pipelines.graphs import Graphed, Recorder
from onestroke.pipelines.samplers import Step
from onestroke.pipelines.text import Embedding

Residuals = tuple[torch.Tensor, ...]
"""What a ControlNet adds to a UNet's skips, from the first to the last, and then to its middle."""
NOTHING: Mapping[int, Residuals] = MappingProxyType({})


class UnetRow(NamedTuple):
    """One row of the forward; a guided picture has two, of which the one with its text is read.

    `held` is the preview of the step before, where this one's `m` wants it. `time_ids` are SDXL's
    micro-conditioning. `w` is the guidance that an LCM's UNet takes as an input, less one. `base` is the row
    without text that this one is guided away from: e = e[base] + guidance * (e - e[base]); an unguided row is its
    own base.
    """

    latents: torch.Tensor
    step: Step
    embedding: Embedding
    time_ids: tuple[int, ...]
    base: int
    guidance: float
    w: float = -1.0
    held: torch.Tensor | None = None


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
        self._nothing: dict[torch.Size, torch.Tensor] = {}
        self.graphed = Graphed(self._advance, buckets=buckets, device=device, recorder=recorder)

    @property
    def channels(self) -> int:
        return int(self.unet.config.in_channels)

    def bucket(self, n: int) -> int:
        """The smallest bucket that holds `n` rows. Raises ValueError beyond the largest."""
        return self.graphed.bucket(n)

    def __call__(
        self, rows: Sequence[UnetRow], added: Mapping[int, Residuals] = NOTHING
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x' = a*x + b*e + m*p and the preview g*x + h*e of each row (n, channels, h, w), fp32, and whether x' is
        finite (n,); noise is not added.

        `added` is what a ControlNet says of some rows, by their place; it is nothing for the others. Raises
        ValueError for more rows than the largest bucket holds.
        """
        table = [
            (s.t, s.d, s.a, s.b, s.m, s.g, s.h, row.guidance, row.base, row.w, *row.time_ids)
            for row, s in ((row, row.step) for row in rows)
        ]
        latents, preview, finite = self.graphed(
            [row.latents for row in rows],
            [self._zeros(row.latents) if row.held is None else row.held for row in rows],
            torch.tensor(table, dtype=torch.float32),
            [row.embedding.hidden for row in rows],
            [row.embedding.pooled for row in rows],
            *_laid_out(added, len(rows)),
        )
        self.forwards += 1
        return latents, preview, finite

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        if like.shape not in self._nothing:
            self._nothing[like.shape] = torch.zeros_like(like)
        return self._nothing[like.shape]

    def _advance(
        self,
        x: torch.Tensor,
        held: torch.Tensor,
        table: torch.Tensor,
        hidden: torch.Tensor,
        pooled: torch.Tensor,
        *added: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Padding rows hold zeros and cannot reach the others: nothing in a UNet mixes rows."""
        d, a, b, m, g, h, guidance = table[:, 1:8, None, None, None].unbind(1)
        e = self.unet(
            (x * d).to(self.dtype).contiguous(memory_format=self.memory_format),
            table[:, 0].contiguous(),
            encoder_hidden_states=hidden,
            timestep_cond=self._guidance_embedding(table[:, 9]),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": table[:, 10:].to(self.dtype)},
            down_block_additional_residuals=added[:-1] or None,
            mid_block_additional_residual=added[-1] if added else None,
            return_dict=False,
        )[0].float()
        base = e[table[:, 8].long()]
        e = base + guidance * (e - base)
        preview = x * g + e * h
        x = x * a + e * b + held * m
        return x, preview, torch.isfinite(x).flatten(1).all(1)

    def _guidance_embedding(self, w: torch.Tensor) -> torch.Tensor | None:
        """What an LCM's UNet takes in place of a second row, as diffusers makes it; None for other UNets."""
        size = self.unet.config.time_cond_proj_dim
        if size is None:
            return None
        made: torch.Tensor = get_timestep_embedding(w * 1000, size, downscale_freq_shift=1)
        return made.to(self.dtype)


def _laid_out(added: Mapping[int, Residuals], n: int) -> list[list[torch.Tensor]]:
    """For each residual its `n` rows, zeros where nothing is added."""
    if not added:
        return []
    nothing = tuple(map(torch.zeros_like, next(iter(added.values()))))
    rows = [added.get(i, nothing) for i in range(n)]
    return [[row[level] for row in rows] for level in range(len(nothing))]
