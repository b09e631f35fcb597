"""Figures that others have published for the very shapes measured here, and what they would be on this device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.results import Report

SDXL_TURBO_A100_MS = 207.0
"""Stability AI, arXiv 2311.17042 and the announcement of SDXL Turbo: prompt encoding, one step and decoding of one
512x512 picture in fp16 on an A100."""


def is_sdxl_turbo(unet: Mapping[str, Any], size: tuple[int, int], steps: int) -> bool:
    """Whether a model of this UNet configuration does SDXL Turbo's work, whatever its weights are."""
    shape = (tuple(unet["block_out_channels"]), unet["cross_attention_dim"])
    return shape == ((320, 640, 1280), 2048) and size == (512, 512) and steps == 1


def add(report: Report, here: float, a100: float) -> None:
    """`here` and `a100` are rooflines of one picture, in seconds, of this device and of an A100."""
    report.add("published.sdxl_turbo_a100.b1_ms", SDXL_TURBO_A100_MS, "ms")
    report.add("estimate.sdxl_turbo.b1_ms", SDXL_TURBO_A100_MS * here / a100, "ms")
