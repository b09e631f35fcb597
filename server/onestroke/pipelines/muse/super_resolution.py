"""The network of Muse's second stage: a masked transformer over a large picture's tokens that is told a small one.

As in the paper (Chang et al., arXiv 2301.00704, section 2.4) the small picture's tokens are embedded, go through a
transformer layer of their own and stand behind the text's hidden states in the cross-attention. Everything else is
aMUSEd's, in the layout of its 512 model. diffusers has no such class; this one is saved and read as its own are.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UVit2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from torch import nn


class SuperResolution(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """`masked` is the configuration of a UVit2DModel over the large tokens.

    `small_size` is the small picture's edge in tokens.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, masked: dict[str, Any], small_size: int, num_layers: int = 1, num_attention_heads: int = 4
    ) -> None:
        super().__init__()
        self.transformer = UVit2DModel(**masked)
        width = self.transformer.config.encoder_hidden_size
        self.embeddings = nn.Embedding(self.transformer.config.codebook_size, width)
        self.positions = nn.Embedding(small_size**2, width)
        self.layers = nn.ModuleList(
            BasicTransformerBlock(width, num_attention_heads, width // num_attention_heads)
            for _ in range(num_layers)
        )

    @property
    def sample_size(self) -> int:
        """The large picture's edge in tokens."""
        size: int = self.transformer.config.sample_size
        return size

    def fits(self, base: Any) -> bool:
        """Whether it goes on from what a transformer of the configuration `base` has drawn, with its text."""
        own = self.transformer.config
        alike = ("codebook_size", "encoder_hidden_size", "cond_embed_dim")
        return self.config.small_size == base.sample_size and all(own[key] == base[key] for key in alike)

    def forward(
        self,
        input_ids: torch.Tensor,
        small: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        pooled_text_emb: torch.Tensor,
        micro_conds: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (n, codebook, h, w) of large tokens (n, h, w), given small ones (n, small_size, small_size)."""
        told = self.embeddings(small.flatten(1)) + self.positions.weight
        for layer in self.layers:
            told = layer(told)
        logits: torch.Tensor = self.transformer(
            input_ids,
            encoder_hidden_states=torch.cat([encoder_hidden_states, told.to(encoder_hidden_states)], 1),
            pooled_text_emb=pooled_text_emb,
            micro_conds=micro_conds,
        )
        return logits
