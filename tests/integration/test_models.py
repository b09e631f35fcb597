"""Several models in one server, on every face. The engine is a double but for the last test."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from websockets.asyncio.client import connect

from onestroke.api.resolve import Ask, resolve
from onestroke.models.catalog import CATALOG
from onestroke.models.choosing import choose
from tests.servers import Server, serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def both() -> Iterator[Server]:
    with serving(env={"ONESTROKE_MODEL": "embedded,sdxl-turbo"}) as server:
        yield server


@pytest.fixture
def http(both: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=both.url, timeout=60) as client:
        yield client


def test_the_list_has_them_all(both: Server, http: httpx.Client) -> None:
    sdk = openai.OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in sdk.models.list().data] == ["embedded", "sdxl-turbo"]
    assert sdk.models.retrieve("sdxl-turbo").id == "sdxl-turbo"
    ready = http.get("/readyz").json()
    assert (ready["model"], ready["models"]) == ("embedded", ["embedded", "sdxl-turbo"])


def test_a_request_chooses_and_the_first_is_the_default(http: httpx.Client) -> None:
    for asked, drawn in (({}, "embedded"), ({"model": "auto"}, "embedded"), ({"model": "sdxl-turbo"},) * 2):
        name = drawn if isinstance(drawn, str) else drawn["model"]
        assert http.get("/v1/generate", params={"prompt": "a fox", **asked}).headers["x-model"] == name


def test_a_picture_s_url_names_its_model(both: Server, http: httpx.Client) -> None:
    body = {"prompt": "a fox", "model": "sdxl-turbo", "response_format": "url"}
    (datum,) = http.post("/v1/images/generations", json=body).json()["data"]
    assert http.get(datum["url"]).headers["x-model"] == "sdxl-turbo"


def test_an_unknown_model_is_told_which_there_are(http: httpx.Client) -> None:
    answer = http.get("/v1/generate", params={"prompt": "a fox", "model": "dall-e-3"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "'embedded', 'sdxl-turbo'" in error["message"]


async def test_a_typist_changes_the_model_between_two_keys(both: Server) -> None:
    async with connect(both.socket_url) as socket:
        await socket.send(json.dumps({"type": "hello"}))
        ready = json.loads(await socket.recv())
        assert ready["model"] == ready["models"][0]
        assert [model["name"] for model in ready["models"]] == ["embedded", "sdxl-turbo"]
        for seq, model in enumerate(("sdxl-turbo", None, "sdxl-turbo")):
            key = {"type": "generate", "seq": seq, "prompt": "a fox", "model": model}
            await socket.send(json.dumps(key))
            message = await socket.recv()
            assert isinstance(message, bytes)
            header = json.loads(message[4 : 4 + int.from_bytes(message[:4], "big")])
            assert (header["seq"], header["model"]) == (seq, model or "embedded")
        await socket.send(json.dumps({"type": "generate", "seq": 9, "prompt": "a fox", "model": "nonesuch"}))
        error = json.loads(await socket.recv())
        assert (error["code"], error["field"], error["seq"]) == ("model_not_found", "model", 9)


def test_two_real_models_draw_what_each_draws_alone(tmp_path: Path) -> None:
    """The embedded model and a random one of Muse's kind, in fp32, within 1/255."""
    from onestroke.pipelines.loading import load
    from tests.pipelines.tiny_models import save_tiny_muse

    muse = save_tiny_muse(tmp_path / "muse")
    specs = {"embedded": CATALOG["embedded"], "muse": choose(muse.source).spec}
    flags = ("--model", "embedded", "--model", muse.source, "--dtype", "float32", "--threads", "1")
    with (
        serving(*flags, "--max-batch", "2", "--device", "cpu", double=False) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        for name, spec in specs.items():
            ask = Ask("a red fox", model=name, seed=5, steps=2)
            (request,) = resolve(ask, list(specs.values()), 100)
            body = {
                "prompt": request.prompt,
                "seed": 5,
                "model": name,
                "format": "png",
                "steps": request.steps,
            }
            answer = client.post("/v1/generate", json=body)
            assert answer.status_code == 200, answer.text
            pipeline = load(spec, device="cpu", dtype="float32", max_batch=2)
            row = pipeline.prepare(1, request)
            pipeline.encode([row])  # type: ignore[list-item]
            while not row.finished:
                pipeline.step([row])  # type: ignore[list-item]
            ((_, (pixels,)),) = pipeline.decode([row])  # type: ignore[list-item]
            drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
            assert drawn.std() > 20
            assert np.abs(drawn.astype(int) - pixels).max() <= 1
