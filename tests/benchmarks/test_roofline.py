"""Counting arithmetic: what oneDNN packs counts like what torch runs plainly."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from benchmarks import published  # noqa: E402
from benchmarks.results import Report  # noqa: E402
from benchmarks.roofline import Op, Rates, Recorder  # noqa: E402
from onestroke.models.catalog import CONFIGS  # noqa: E402
from onestroke.models.folders import read_json  # noqa: E402
from onestroke.pipelines.layers import Conv, PackedLinear, packs  # noqa: E402


@torch.inference_mode()
def test_a_plain_convolution_and_a_product_are_counted() -> None:
    with Recorder("here") as recorder:
        torch.nn.functional.conv2d(torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3), padding=1)
        torch.nn.functional.linear(torch.ones(4, 6), torch.ones(7, 6))
        torch.ones(9) + 1
    ops = recorder.stages["here"]
    assert [(op.kind, op.flop) for op in ops] == [
        ("conv", 2 * 9 * 3 * 5 * 2 * 8 * 8),
        ("gemm", 2 * 4 * 6 * 7),
    ]
    assert ops[1].bytes == 4 * (4 * 6 + 7 * 6 + 4 * 7)


@torch.inference_mode()
def test_attention_is_counted_and_what_runs_in_no_stage_is_not() -> None:
    query, key = torch.ones(2, 3, 10, 8), torch.ones(2, 3, 20, 8)
    with Recorder() as recorder:
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
        recorder.stage = "here"
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    assert sum(op.flop for op in recorder.stages["here"]) == 2 * 2 * (2 * 3 * 10 * 20 * 8)
    assert [*recorder.stages] == ["here"]


@torch.inference_mode()
def test_packed_layers_count_as_the_plain_ones_do() -> None:
    weight = torch.ones(16, 16, 3, 3)
    if not packs(weight):
        pytest.skip("oneDNN packs nothing here")
    x = torch.ones(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    conv = Conv(weight, torch.zeros(16), relu=True)
    linear = PackedLinear(torch.nn.Linear(16, 32))
    with Recorder("here") as recorder:
        conv(x)
        conv(x, x)
        linear(torch.ones(4, 16))
    assert [(op.kind, op.flop) for op in recorder.stages["here"]] == [
        ("conv", 2 * 9 * 16 * 16 * 64),
        ("conv", 2 * 9 * 16 * 16 * 64),
        ("gemm", 2 * 4 * 16 * 32),
    ]


def test_the_roofline_takes_the_slower_of_arithmetic_and_memory() -> None:
    rates = Rates(gemm=10.0, conv=100.0, copy_cache=4.0, copy_memory=2.0)
    assert rates.seconds(Op("gemm", 40.0, 4.0)) == 4.0
    assert rates.seconds(Op("conv", 40.0, 4.0)) == 1.0


def test_a_device_twice_as_fast_as_an_a100_halves_the_estimate() -> None:
    report = Report("card", "2", "abc", 1, "m", "c")
    published.add(report, here=0.005, a100=0.010)
    assert report.get("estimate.sdxl_turbo.b1_ms") == published.SDXL_TURBO_A100_MS / 2


def test_only_sdxl_turbos_work_is_compared_with_its_published_figure() -> None:
    unet = read_json(CONFIGS / "sdxl" / "unet" / "config.json")
    assert published.is_sdxl_turbo(unet, (512, 512), 1)
    assert not published.is_sdxl_turbo(unet, (512, 512), 4)
    assert not published.is_sdxl_turbo(unet, (1024, 1024), 1)
    assert not published.is_sdxl_turbo(read_json(CONFIGS / "sd15" / "unet" / "config.json"), (512, 512), 1)
