"""Models that diffusers draws whole, served over REST in one server with the embedded one, as each draws alone."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from onestroke.api.resolve import Ask, resolve
from onestroke.app import create_app, until_ready
from onestroke.models.catalog import CATALOG
from onestroke.pipelines.generic.pipeline import WholePipeline
from onestroke.pipelines.loading import load
from onestroke.settings import Settings
from tests.pipelines.generic.tiny_pipelines import MAKERS, save

pytestmark = pytest.mark.integration

WITHIN = 240.0


async def test_all_four_and_the_embedded_one_in_one_server(tmp_path: Path) -> None:
    """Mixed traffic: rows of one batch key share calls, others do not, and every picture is its own (1/255)."""
    specs = [CATALOG["embedded"], *(save(name, tmp_path / name) for name in MAKERS)]
    settings = Settings(
        device="cpu", dtype="float32", threads=1, max_batch=4, max_wait=WITHIN, request_timeout=WITHIN
    )
    app = create_app(settings, specs)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=WITHIN) as client,
    ):
        await asyncio.wait_for(until_ready(app.state.context.scheduler), WITHIN)

        async def draw(**asked: Any) -> httpx.Response:
            return await client.post("/v1/generate", json={"prompt": "a fox", "format": "png", **asked})

        asked: list[dict[str, Any]] = [
            {"model": spec.name, "seed": seed, "steps": steps}
            for spec in specs[1:]
            for seed, steps in ((1, spec.default_steps), (2, spec.default_steps), (3, 1))
        ]
        answers = await asyncio.gather(*(draw(**each) for each in [*asked, {"model": "embedded", "seed": 4}]))
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert {answer.headers["x-model"] for answer in answers} == {spec.name for spec in specs}
        assert max(int(answer.headers["x-batch-size"]) for answer in answers[:-1]) == 2, (
            "alike rows share a call"
        )
        refused = await draw(model="tiny-flux1-schnell", guidance_scale=3.0, negative_prompt="fog")
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "negative_prompt"
        assert (await draw(model="tiny-sana-sprint", steps=5)).json()["error"]["param"] == "steps"
    for spec in specs[1:]:
        pipeline = load(spec, device="cpu", dtype="float32", max_batch=1)
        assert isinstance(pipeline, WholePipeline)
        for each, answer in zip(asked, answers, strict=False):
            if each["model"] == spec.name:
                ask = Ask("a fox", seed=each["seed"], steps=each["steps"])
                row = pipeline.prepare(1, *resolve(ask, [spec], 100))
                pipeline.step([row])
                assert row.pixels is not None
                picture = np.asarray(Image.open(io.BytesIO(answer.content)))
                assert np.abs(picture.astype(int) - row.pixels).max() <= 1
