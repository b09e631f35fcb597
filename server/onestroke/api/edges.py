"""A picture's edges, by Canny's method as OpenCV has it: what canny ControlNets are steered by."""

from __future__ import annotations

import io
from importlib.util import find_spec

from PIL import Image

from onestroke.core import SourceImage
from onestroke.errors import InvalidRequest

WEAK, STRONG = 100, 200
"""The thresholds that canny ControlNets were trained and are shown with."""


def preprocesses() -> list[str]:
    """What this server can make of a control image before a ControlNet reads it."""
    return ["none", "canny"] if find_spec("cv2") else ["none"]


def edges(image: SourceImage) -> SourceImage:
    """White edges on black, as PNG. Raises InvalidRequest where OpenCV is not installed."""
    try:
        import cv2
        import numpy as np  # late, like OpenCV: the server's start does without
    except ImportError as error:
        raise InvalidRequest(
            "control.preprocess canny needs OpenCV on the server (pip install onestroke[control]): give the edges "
            "themselves and preprocess none",
            "control.preprocess",
        ) from error
    with Image.open(io.BytesIO(image.data)) as opened:
        grey = np.asarray(opened.convert("L"))
    found = Image.fromarray(cv2.Canny(grey, WEAK, STRONG))
    buffer = io.BytesIO()
    found.save(buffer, "PNG", compress_level=1)
    return SourceImage.of(buffer.getvalue(), image.resized_from)
