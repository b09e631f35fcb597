"""Adapters over REST: a real server with a tiny model, started with one and given another."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from tests.pipelines.loras import random_factors, save_kohya
from tests.pipelines.tiny_models import save_tiny_pipeline
from tests.servers import serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("served")
    save_tiny_pipeline(folder / "model")
    unet = UNet2DConditionModel.from_pretrained(folder / "model", subfolder="unet")
    torch.manual_seed(0)
    return {
        "model": folder / "model",
        **{
            name: save_kohya(folder / f"{name}.safetensors", {"unet": random_factors(unet, seed=seed)})
            for seed, name in enumerate(("first", "second"))
        },
    }


@pytest.fixture(scope="module")
def http(files: dict[str, Path]) -> Iterator[httpx.Client]:
    flags = ("--model", str(files["model"]), "--device", "cpu", "--threads", "1", "--max-batch", "2")
    with (
        serving(*flags, "--adapter", f"first={files['first']}", double=False) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def drawn(http: httpx.Client, adapters: str = "") -> bytes:
    query = {"prompt": "a cat", "seed": 1, "format": "png", "adapters": adapters}
    return pixels(http.get("/v1/generate", params=query))


def pixels(answer: httpx.Response) -> bytes:
    """Without the file's text, in which the adapters' names stand."""
    return Image.open(io.BytesIO(answer.raise_for_status().content)).tobytes()


def test_adapters_are_chosen_by_request_and_leave_nothing_behind(http: httpx.Client) -> None:
    plain = drawn(http)
    pictures = {plain, drawn(http, "first"), drawn(http, "first:0.5")}
    assert len(pictures) == 3
    assert drawn(http) == plain, "bit-identical to before"
    body = {"prompt": "a cat", "seed": 1, "format": "png", "adapters": [{"name": "first", "scale": 0.5}]}
    assert pixels(http.post("/v1/generate", json=body)) == drawn(http, "first:0.5")
    body = {"prompt": "a cat", "seed": 1, "response_format": "url", "adapters": body["adapters"]}
    url = http.post("/v1/images/generations", json=body).json()["data"][0]["url"]
    assert pixels(http.get(url)) == drawn(http, "first:0.5")
    assert 'onestroke_verb_seconds_count{verb="switch"}' in http.get("/metrics").text


def test_adapters_come_and_go_while_the_server_runs(http: httpx.Client, files: dict[str, Path]) -> None:
    plain = drawn(http)
    new = {"name": "second", "source": str(files["second"])}
    assert http.post("/admin/adapters", json=new).status_code == 201
    assert http.get("/v1/models").json()["data"][0]["onestroke"]["adapters"] == ["first", "second"]
    assert drawn(http, "second") not in (plain, drawn(http, "first"))
    assert "delete it first" in problem(http.post("/admin/adapters", json=new), "name")
    assert http.delete("/admin/adapters/second").status_code == 200
    assert "there is no adapter 'second'" in problem(
        http.get("/v1/generate", params=asked("second")), "adapters"
    )
    assert http.post("/admin/adapters", json={**new, "source": str(files["first"])}).status_code == 201
    assert drawn(http, "second") == drawn(http, "first"), "the name stands for the new file"
    assert http.delete("/admin/adapters/second").status_code == 200
    assert drawn(http) == plain


def asked(adapters: str) -> dict[str, str]:
    return {"prompt": "a cat", "adapters": adapters}


def problem(answer: httpx.Response, field: str) -> str:
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, field)
    return str(error["message"])


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ("nobody", "there is no adapter 'nobody' for model; there are: first"),
        ("first:much", "NAME:SCALE"),
        ("first:5", "from -4 to 4"),
        ("first:nan", "from -4 to 4"),
        ("first,first:0.5", "once"),
        (",".join(f"a{i}" for i in range(9)), "at most 8"),
    ],
)
def test_what_cannot_be_used_is_named(http: httpx.Client, adapters: str, words: str) -> None:
    assert words in problem(http.get("/v1/generate", params=asked(adapters)), "adapters")


def test_what_cannot_be_added_is_named(http: httpx.Client, files: dict[str, Path], tmp_path: Path) -> None:
    def refused(name: str, source: object, field: str = "source") -> str:
        return problem(http.post("/admin/adapters", json={"name": name, "source": str(source)}), field)

    assert "letters" in refused("a b", files["first"], "name")
    assert "neither a path" in refused("x", tmp_path / "nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert "is not a safetensors file" in refused("x", tmp_path / "broken.safetensors")
    assert "letters" in problem(http.post("/admin/adapters", json={"name": "", "source": "a/b"}), "name")
    from_elsewhere = {"X-Forwarded-For": "10.0.0.1"}
    answer = http.request("DELETE", "/admin/adapters/first", headers=from_elsewhere)
    assert answer.status_code == 403
