"""Adapters under recorded graphs: what is replayed reads the weights that are merged now."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from onestroke.core import AdapterUse, GenerationRequest
from onestroke.models.specs import AdapterSpec, FileSpec, ModelSpec
from onestroke.pipelines.pipeline import Pipeline
from tests.gpu.test_replay import BOUND, drawn
from tests.pipelines.loras import random_factors, save_kohya

Ask = Callable[..., GenerationRequest]


@pytest.fixture(scope="module")
def style(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> AdapterSpec:
    unet = UNet2DConditionModel.from_pretrained(spec.source, subfolder="unet")
    file = tmp_path_factory.mktemp("lora") / "style.safetensors"
    save_kohya(file, {"unet": random_factors(unet)})
    return AdapterSpec("style", FileSpec(str(file)))


def test_a_replay_reads_what_is_merged_and_what_is_restored(
    precise: Pipeline, eager: Pipeline, ask: Ask, style: AdapterSpec
) -> None:
    recorded = list(precise.denoiser.graphed.recorded)
    for pipeline in (precise, eager):
        pipeline.add_adapter(style)
    plain, styled = ask(steps=2), ask(steps=2, adapters=(AdapterUse("style", 0.8),))
    try:
        (before,) = drawn(precise, [plain])
        (merged,) = drawn(precise, [styled])
        (by_eager,) = drawn(eager, [styled])
        assert np.abs(merged - by_eager).max() <= BOUND
        assert np.abs(merged - before).max() > BOUND
        assert np.array_equal(drawn(precise, [plain])[0], before)
        assert precise.denoiser.graphed.recorded == recorded, "nothing was recorded for it"
    finally:
        for pipeline in (precise, eager):
            pipeline.use_adapters(())
            pipeline.remove_adapter("style")


def test_what_a_two_step_solver_holds_is_replayed(precise: Pipeline, eager: Pipeline, ask: Ask) -> None:
    requests = [ask(steps=5, sampler="dpmpp_2m"), ask(steps=5, sampler="euler", seed=2, guidance_scale=2.0)]
    for one, other in zip(drawn(precise, requests), drawn(eager, requests), strict=True):
        assert np.abs(one - other).max() <= BOUND
