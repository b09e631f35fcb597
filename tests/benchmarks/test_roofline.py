"""Counting arithmetic: what oneDNN packs counts like what torch runs plainly."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from benchmarks.roofline import Rates, Recorder  # noqa: E402
from onestroke.pipelines.layers import Conv, PackedLinear, packs  # noqa: E402


@torch.inference_mode()
def test_a_plain_convolution_and_a_product_are_counted() -> None:
    with Recorder() as recorder:
        torch.nn.functional.conv2d(torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3), padding=1)
        torch.nn.functional.linear(torch.ones(4, 6), torch.ones(7, 6))
        torch.ones(9) + 1
    assert [(op.kind, op.flop) for op in recorder.ops] == [
        ("conv", 2 * 9 * 3 * 5 * 2 * 8 * 8),
        ("gemm", 2 * 4 * 6 * 7),
    ]
    assert recorder.ops[1].bytes == 4 * (4 * 6 + 7 * 6 + 4 * 7)


@torch.inference_mode()
def test_packed_layers_count_as_the_plain_ones_do() -> None:
    weight = torch.ones(16, 16, 3, 3)
    if not packs(weight):
        pytest.skip("oneDNN packs nothing here")
    x = torch.ones(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    conv = Conv(weight, torch.zeros(16), relu=True)
    linear = PackedLinear(torch.nn.Linear(16, 32))
    with Recorder() as recorder:
        conv(x)
        conv(x, x)
        linear(torch.ones(4, 16))
    assert [(op.kind, op.flop) for op in recorder.ops] == [
        ("conv", 2 * 9 * 16 * 16 * 64),
        ("conv", 2 * 9 * 16 * 16 * 64),
        ("gemm", 2 * 4 * 16 * 32),
    ]


def test_the_roofline_takes_the_slower_of_arithmetic_and_memory() -> None:
    rates = Rates(gemm=10.0, conv=100.0, copy_cache=4.0, copy_memory=2.0)
    assert rates.seconds("gemm", 40.0, 4.0) == 4.0
    assert rates.seconds("conv", 40.0, 4.0) == 1.0
