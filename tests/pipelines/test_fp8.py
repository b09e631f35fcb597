"""Eight-bit layers: what is rounded, by how much, and what it does to a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from onestroke.core import GenerationRequest
from onestroke.models.specs import ModelSpec
from onestroke.pipelines.fp8 import Fp8Linear, quantise, rounded
from onestroke.pipelines.loading import load
from onestroke.pipelines.pipeline import Pipeline

CPU = torch.device("cpu")
STEP = 2.0**-4
"""The largest relative error of rounding to e4m3: half of its last of three bits."""


def test_rounding_is_within_half_a_step_of_each_row_however_large_the_others_are() -> None:
    rows = torch.randn(6, 256) * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6, 0.0])[:, None]
    eight, scale = rounded(rows)
    back = eight.float() * scale
    assert torch.isfinite(back).all()
    floor = rows.abs().amax(-1, keepdim=True) / 448 * 2.0**-9  # the smallest numbers have fewer bits
    assert ((back - rows).abs() <= rows.abs() * STEP + floor).all()


@torch.inference_mode()
def test_a_layer_is_near_the_one_it_was_made_from_and_keeps_rows_apart() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 128)
    layer = Fp8Linear(linear)
    x = torch.randn(2, 5, 256)
    found, expected = layer(x), linear(x)
    assert found.shape == expected.shape
    relative = float((found - expected).norm() / expected.norm())
    assert 0.001 < relative < 0.05
    assert torch.equal(found[0], layer(torch.cat([x[:1], x[1:] * 1e4]))[0])


def pictures(pipeline: Pipeline, requests: list[GenerationRequest]) -> np.ndarray:
    rows = [pipeline.prepare(i, request) for i, request in enumerate(requests)]
    pipeline.encode(rows)
    pipeline.step(rows)
    return np.stack([pixels for _, part in pipeline.decode(rows) for pixels in part]).astype(int)


def test_a_picture_drawn_in_eight_bits_is_near_the_exact_one(
    spec: ModelSpec, pipeline32: Pipeline, ask: Callable[..., GenerationRequest]
) -> None:
    requests = [ask(f"cat {i}", seed=i) for i in range(4)]
    exact = pictures(pipeline32, requests)
    pipeline = load(spec, device="cpu", dtype="float32")
    blocks = sum(type(each).__name__ == "BasicTransformerBlock" for each in pipeline.denoiser.unet.modules())
    # Of eight products in self- and cross-attention and two in the feed-forward, all but those of the text.
    assert quantise(pipeline.denoiser.unet, CPU) == 0, "layers this small are left alone"
    assert quantise(pipeline.denoiser.unet, CPU, least=64) >= 8 * blocks
    off = np.abs(pictures(pipeline, requests) - exact)
    assert 0 < off.mean() < 4, f"mean error {off.mean():.2f} of 255"
