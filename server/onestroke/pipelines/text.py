"""Prompts to embeddings: one CLIP or SDXL's two, one fixed bucket, and a cache bounded in bytes.

Encoding always runs in the same bucket, so that an embedding is a function of its prompt alone and a cached
one is bit-identical to a fresh one. As in diffusers' encode_prompt: for SDXL `hidden_states[-2]` of both encoders
stands side by side and the pooled output is the second's projection; for SD 1.5 and 2.1 it is the one encoder's
last state behind the final normalisation (SD 2.1's is the last but one of a CLIP whose last layer was left out).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from onestroke.pipelines.cache import ByteCache
from onestroke.pipelines.graphs import Graphed, Recorder
from onestroke.pipelines.spelling import Spelling


class Tokens(NamedTuple):
    """A tokenized prompt, as it is read: `ids` holds one int64 tensor (length,) per text encoder, padded to its
    length."""

    prompt: str
    ids: tuple[torch.Tensor, ...]
    truncated: bool


class Embedding(NamedTuple):
    """`hidden` (tokens, features) and `pooled` (features,), both in the compute dtype on the device.

    `pooled` has no features where the model takes none.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.hidden.nbytes + self.pooled.nbytes


class TextEncoder:
    """The tokenizers and CLIPs of a model. `tokenize` is thread-safe, `encode` is not.

    `reads` says which hidden state of each CLIP conditions the UNet, None for its normalised output. SDXL's is the
    last but one, which is the first CLIP's last where `without_last_layer` has spared the rest.
    `project` is what the UNet makes of the text before its own work (see attention.KeysAndValues); embeddings hold
    what comes out of it.
    `spelling` puts slips right before anything is read, for encoders that know few words.
    """

    def __init__(
        self,
        tokenizers: Sequence[Any],
        encoders: Sequence[Any],
        *,
        reads: Sequence[int | None],
        bucket: int,
        cache_bytes: int,
        recorder: Recorder | None = None,
        project: Callable[[torch.Tensor], torch.Tensor],
        spelling: Spelling | None = None,
    ) -> None:
        self.tokenizers = tuple(tokenizers)
        self.encoders = tuple(encoders)
        self.reads = tuple(reads)
        self.bucket = bucket
        self.spelling = spelling
        self._project = project
        self.cache: ByteCache[Embedding] = ByteCache(cache_bytes)
        self.graphed = Graphed(self._embed, buckets=(bucket,), device=encoders[0].device, recorder=recorder)
        # A fast tokenizer keeps its truncation and padding settings on itself.
        self._lock = threading.Lock()

    def tokenize(self, prompt: str) -> Tokens:
        """`prompt` as each encoder reads it, cut and padded to its length."""
        if self.spelling:
            prompt = self.spelling.correct(prompt)
        ids, truncated = [], False
        with self._lock:
            for tokenizer in self.tokenizers:
                length = tokenizer.model_max_length
                found: list[int] = tokenizer(prompt, verbose=False).input_ids
                if len(found) > length:
                    truncated = True
                    found = [*found[: length - 1], found[-1]]
                ids.append(torch.tensor(found + [tokenizer.pad_token_id] * (length - len(found))))
        return Tokens(prompt, tuple(ids), truncated)

    def encode(self, wanted: Iterable[Tokens], adapters: Hashable = ()) -> dict[str, Embedding]:
        """Embeddings by prompt; those not cached are encoded, `bucket` at a time, each prompt once.

        `adapters` says what is merged into the encoders now: the same prompt is another embedding then.
        """
        found: dict[str, Embedding] = {}
        missing: dict[str, Tokens] = {}
        for tokens in wanted:
            if embedding := self.cache.get((adapters, tokens.prompt)):
                found[tokens.prompt] = embedding
            else:
                missing[tokens.prompt] = tokens
        waiting = list(missing.values())
        for first in range(0, len(waiting), self.bucket):
            chunk = waiting[first : first + self.bucket]
            for tokens, embedding in zip(chunk, self._forward(chunk), strict=True):
                found[tokens.prompt] = embedding
                self.cache.put((adapters, tokens.prompt), embedding)
        return found

    def _forward(self, chunk: list[Tokens]) -> list[Embedding]:
        ids = [torch.stack([tokens.ids[which] for tokens in chunk]) for which in range(len(self.encoders))]
        # Copies: a slice would keep its whole bucket alive in the cache.
        hidden, pooled = self.graphed(*ids)
        return [Embedding(hidden[i].clone(), pooled[i].clone()) for i in range(len(chunk))]

    def _embed(self, *ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, pooled = [], None
        for encoder, read, each in zip(self.encoders, self.reads, ids, strict=True):
            output = encoder(each, output_hidden_states=read is not None)
            hidden.append(output.last_hidden_state if read is None else output.hidden_states[read])
            pooled = getattr(output, "text_embeds", None)
        joined = torch.cat(hidden, dim=-1)
        if pooled is None:
            pooled = joined.new_zeros(len(joined), 0)
        return self._project(joined), pooled


def without_last_layer(encoder: Any) -> tuple[Any, int]:
    """A CLIPTextModel of which only `hidden_states[-2]` is used, without the layer behind it.

    Returns it and which of its hidden states is the one now; a model of a single layer stays whole.
    """
    layers = encoder.encoder.layers
    if len(layers) < 2:
        return encoder, -2
    encoder.encoder.layers = layers[:-1]
    return encoder, -1
