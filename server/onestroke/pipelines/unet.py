"""One UNet forward over rows that differ in step, sampler, seed, prompt and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from onestroke.pipelines.text import Embedding


class Denoiser:
    """The UNet over a padded bucket of rows.

    `buckets` are the batch sizes it runs in, rising; a call with n rows runs in the smallest that holds them.
    """

    def __init__(
        self, unet: Any, *, buckets: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.unet = unet
        self.buckets = buckets
        self.device = device
        self.dtype = dtype
        self.forwards = 0

    @property
    def channels(self) -> int:
        return int(self.unet.config.in_channels)

    def __call__(
        self,
        inputs: torch.Tensor,
        timesteps: Sequence[float],
        embeddings: Sequence[Embedding],
        time_ids: torch.Tensor,
    ) -> torch.Tensor:
        """The network's output (n, channels, h, w), fp32, for scaled latents `inputs` of the same shape.

        `time_ids` (n, 6) are the rows' micro-conditioning. Padding rows hold zeros and the first row's text and
        times, and cannot reach the others: nothing in a UNet mixes rows.
        """
        n, bucket = len(inputs), self.bucket(len(inputs))
        spare = bucket - n
        sample = torch.cat([inputs, inputs.new_zeros(spare, *inputs.shape[1:])]) if spare else inputs
        padded = [*embeddings, *[embeddings[0]] * spare]
        ids = torch.cat([time_ids, time_ids[:1].expand(spare, -1)]) if spare else time_ids
        times = torch.tensor([*timesteps, *[timesteps[0]] * spare], dtype=torch.float32).to(self.device)
        self.forwards += 1
        output: torch.Tensor = self.unet(
            sample.to(self.dtype).contiguous(memory_format=torch.channels_last),
            times,
            encoder_hidden_states=torch.stack([row.hidden for row in padded]),
            added_cond_kwargs={
                "text_embeds": torch.stack([row.pooled for row in padded]),
                "time_ids": ids,
            },
            return_dict=False,
        )[0]
        return output[:n].float()

    def bucket(self, n: int) -> int:
        """The smallest bucket that holds `n` rows. Raises ValueError beyond the largest."""
        for bucket in self.buckets:
            if n <= bucket:
                return bucket
        raise ValueError(f"{n} UNet rows are more than the largest bucket, {self.buckets[-1]}")
