"""Noise, drawn row by row on the CPU in fp32, as diffusers draws it from a list of CPU generators.

A row's noise therefore depends on its seed alone, not on its neighbours, its bucket or its device.
"""

from __future__ import annotations

import torch


class Noise:
    """One row's generator. diffusers draws the start latents first, then each step's noise in order.

    `shape` is (channels, height, width) of the latents.
    """

    __slots__ = ("_generator", "shape")

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.shape = shape

    def draw(self) -> torch.Tensor:
        """The next unit noise, fp32 on the CPU, of `shape`."""
        return torch.randn((1, *self.shape), generator=self._generator)[0]
