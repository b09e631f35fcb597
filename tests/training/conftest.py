"""A tiny world for the trainers: drawn discs instead of rendered art, a handful of words instead of a
dictionary."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("tqdm")

import torch

from training import captions, phrases
from training.concepts import CONCEPTS
from training.latents import CHANNELS, Composer, Encoder

WORDS = frozenset(
    {
        "clown",
        "wolf",
        "sheep",
        "beard",
        "plant",
        "democracy",
        "mortgage",
        "table",
        "window",
        "many",
        "next",
        "pair",
    }
)


@pytest.fixture(autouse=True)
def few_english_words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tarballs in tests: a fixed handful of English words."""
    beginnings = frozenset(word[:end] for word in WORDS for end in range(3, len(word)))
    for module in (phrases, captions):
        monkeypatch.setattr(module, "english", lambda: (WORDS, beginnings))
    monkeypatch.setattr(captions, "read_json", lambda *_: ["potsherds", "quixotic"])
    phrases.look_up.cache_clear()
    yield
    phrases.look_up.cache_clear()


class Discs(dict[int, np.ndarray]):
    """Stands for the rendered art: at every size, concept i is a disc in a colour of its own."""

    def __missing__(self, size: int) -> np.ndarray:
        """Draw all concepts at a size: premultiplied RGBA and the mask, as `data.prepare` writes them."""
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        inside = (np.hypot(x, y) < 0.45 * size).astype(np.uint8)
        planes = np.zeros((1, size, size, 5), np.uint8)
        planes[0, ..., 3:] = 255 * inside[..., None]
        planes[0, ..., :3] = inside[..., None] * np.array([200, 60, 30], np.uint8)
        self[size] = np.broadcast_to(planes, (len(CONCEPTS), size, size, 5))
        return self[size]


@pytest.fixture(scope="session")
def composer() -> Composer:
    """A composer over `Discs`."""
    mains = np.tile(np.array([[200, 60, 30]], np.float32) / 255, (len(CONCEPTS), 1))
    return Composer(Discs(), mains)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """A linear encoder with random orthogonal rows."""
    basis, _ = torch.linalg.qr(torch.randn(768, CHANNELS, generator=torch.Generator().manual_seed(0)))
    return Encoder(basis / 8)
