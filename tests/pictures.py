"""Pictures to start from and to steer by: smooth random colours, so that every part of one matters."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from onestroke.core import SourceImage


def colours(size: tuple[int, int] = (64, 64), seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def source(image: Image.Image) -> SourceImage:
    return SourceImage.of(encoded(image))
