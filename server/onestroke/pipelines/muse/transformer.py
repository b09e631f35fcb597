"""One forward of the masked transformer over rows that differ in step, seed, prompt and guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from onestroke.pipelines.text import Embedding


class MaskedTransformer:
    """diffusers' UVit2DModel, or a SuperResolution, over a padded bucket of rows.

    `buckets` are the batch sizes it runs in, rising; a call with n rows runs in the smallest that holds them.
    """

    def __init__(
        self, network: Any, *, buckets: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.network = network
        self.buckets = buckets
        self.device = device
        self.dtype = dtype
        self.forwards = 0

    def __call__(
        self,
        tokens: Sequence[torch.Tensor],
        embeddings: Sequence[Embedding],
        conditions: Sequence[tuple[int, ...]],
        small: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """fp32 logits (n, codebook, h, w) of image tokens (h, w) each.

        `conditions` are a row's micro-conditioning: width, height, crop corner, aesthetic score. `small` is what
        super-resolution is told of each row's small picture, tokens. Padding rows repeat the first; nothing in the
        network mixes rows. Raises ValueError beyond the largest bucket.
        """
        n = len(tokens)
        spare = self.bucket(n) - n
        padded = [*embeddings, *[embeddings[0]] * spare]
        told = {} if small is None else {"small": torch.stack([*small, *[small[0]] * spare])}
        self.forwards += 1
        logits: torch.Tensor = self.network(
            torch.stack([*tokens, *[tokens[0]] * spare]),
            encoder_hidden_states=torch.stack([each.hidden for each in padded]),
            pooled_text_emb=torch.stack([each.pooled for each in padded]),
            micro_conds=torch.tensor([*conditions, *[conditions[0]] * spare], dtype=self.dtype).to(
                self.device
            ),
            **told,
        )
        return logits[:n].float()

    def bucket(self, n: int) -> int:
        """The smallest bucket that holds `n` rows. Raises ValueError beyond the largest."""
        for bucket in self.buckets:
            if n <= bucket:
                return bucket
        raise ValueError(f"{n} rows are more than the largest bucket, {self.buckets[-1]}")
