"""CLIP's tokenizer without a download: single-file checkpoints bring no vocabulary.

The vocabulary follows from the merges (`models/clip`, MIT): the 256 bytes, the same at a word's end, one token for
each merge, and the two ends of a text.
"""

from __future__ import annotations

import gzip
from typing import Any

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from onestroke.models.catalog import CLIP_MERGES

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def clip_tokenizer(*, pad: str = END) -> Any:
    """OpenAI's and OpenCLIP's tokenizer, 49,408 tokens. OpenCLIP's pads with token 0, which is "!"."""
    lines = gzip.decompress(CLIP_MERGES.read_bytes()).decode().splitlines()
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=LENGTH)
