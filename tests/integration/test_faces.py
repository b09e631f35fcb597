"""REST over a real server whose engine is a double: contracts, bad input, the OpenAI SDK as client."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.servers import Server, serving

pytestmark = pytest.mark.integration


@pytest.fixture
def http(double_server: Server) -> Any:
    with httpx.Client(base_url=double_server.url, timeout=30) as client:
        yield client


@pytest.fixture
def sdk(double_server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{double_server.url}/v1", api_key="none", max_retries=0)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


# -- OpenAI ----------------------------------------------------------------------------------------------------


def test_the_sdk_draws(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(prompt="a red fox", model="embedded", size="512x512")
    assert answer.data is not None
    assert answer.data[0].b64_json is not None
    picture = opened(base64.b64decode(answer.data[0].b64_json))
    assert (picture.size, picture.format) == ((512, 512), "PNG")
    assert (answer.output_format, answer.size) == ("png", "512x512")


def test_a_revised_prompt_is_told_as_the_sdk_expects_it(sdk: openai.OpenAI) -> None:
    pictures = [
        sdk.images.generate(prompt=prompt, model="embedded").data for prompt in ("an elphant", "a hen")
    ]
    assert [picture[0].revised_prompt for picture in pictures if picture] == ["an elephant", None]


def test_n_pictures_have_rising_seeds_and_ride_one_batch(sdk: openai.OpenAI) -> None:
    answer = sdk.images.generate(prompt="foxes", n=10, extra_body={"seed": 40})
    assert answer.data is not None
    assert [datum.model_extra["seed"] for datum in answer.data if datum.model_extra] == list(range(40, 50))


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_every_output_format(sdk: openai.OpenAI, output_format: Any, name: str) -> None:
    answer = sdk.images.generate(prompt="a fox", output_format=output_format)
    assert answer.data is not None
    assert opened(base64.b64decode(answer.data[0].b64_json or "")).format == name


def test_a_url_draws_the_same_picture(sdk: openai.OpenAI) -> None:
    asked = {"prompt": "a fox & a hen?", "output_format": "png", "extra_body": {"seed": 5}}
    by_url = sdk.images.generate(response_format="url", **asked)  # type: ignore[call-overload]
    by_value = sdk.images.generate(**asked)  # type: ignore[call-overload]
    assert httpx.get(by_url.data[0].url, timeout=60).content == base64.b64decode(by_value.data[0].b64_json)


def test_streaming_ends_with_the_completed_picture(sdk: openai.OpenAI) -> None:
    events = list(sdk.images.generate(prompt="a fox", stream=True, partial_images=2, output_format="jpeg"))
    (event,) = events
    assert event.type == "image_generation.completed"
    assert opened(base64.b64decode(event.b64_json)).format == "JPEG"


def test_the_models_list(sdk: openai.OpenAI) -> None:
    (model,) = sdk.models.list().data
    assert model.id == "embedded"
    assert model.model_extra is not None
    facts = model.model_extra["onestroke"]
    assert facts["licence"]["terms"] == "commercial use allowed"
    assert facts["memory_bytes"] == 500_000_000
    assert "no scenes" in facts["limits"]
    assert sdk.models.retrieve("embedded").id == "embedded"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("dall-e-3")


BAD_OPENAI: list[tuple[dict[str, Any], str, int]] = [
    ({}, "prompt", 400),
    ({"prompt": ""}, "prompt", 400),
    ({"prompt": " \n"}, "prompt", 400),
    ({"prompt": "x" * 100_000}, "prompt", 400),
    ({"prompt": "\x00\x01\x02"}, "prompt", 400),
    ({"prompt": 7}, "prompt", 400),
    ({"prompt": "x", "n": 0}, "n", 400),
    ({"prompt": "x", "n": 11}, "n", 400),
    ({"prompt": "x", "size": "513x7"}, "size", 400),
    ({"prompt": "x", "model": "dall-e-3"}, "model", 404),
    ({"prompt": "x", "colour": "red"}, "colour", 400),
    ({"prompt": "x", "quality": "hd"}, "quality", 400),
    ({"prompt": "x", "style": "vivid"}, "style", 400),
    ({"prompt": "x", "background": "transparent"}, "background", 400),
    ({"prompt": "x", "output_format": "gif"}, "output_format", 400),
    ({"prompt": "x", "output_compression": 50}, "output_compression", 400),
    ({"prompt": "x", "output_compression": 101, "output_format": "jpeg"}, "output_compression", 400),
    ({"prompt": "x", "partial_images": 4, "stream": True}, "partial_images", 400),
    ({"prompt": "x", "partial_images": 1}, "partial_images", 400),
    ({"prompt": "x", "response_format": "url", "stream": True}, "response_format", 400),
    ({"prompt": "x", "seed": -1}, "seed", 400),
    ({"prompt": "x", "seed": 2**53 - 1, "n": 2}, "seed", 400),
    ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps", 400),
    ({"prompt": "x", "num_inference_steps": 1000}, "num_inference_steps", 400),
    ({"prompt": "x", "guidance_scale": -1}, "guidance_scale", 400),
    ({"prompt": "x", "negative_prompt": "y"}, "negative_prompt", 400),
]


@pytest.mark.parametrize(("body", "param", "status"), BAD_OPENAI)
def test_bad_input_is_named_in_openais_envelope(
    http: httpx.Client, body: Any, param: str, status: int
) -> None:
    answer = http.post("/v1/images/generations", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 300


def test_broken_json_and_no_body_and_a_wrong_type(http: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    for content in (b"{", b"", b"\xff\xfe", b"[]", b"null"):
        answer = http.post("/v1/images/generations", content=content, headers=json_type)
        assert answer.status_code == 400, content
        assert answer.json()["error"]["message"]


def test_a_huge_body_is_refused_before_it_is_read(http: httpx.Client) -> None:
    answer = http.post("/v1/images/generations", json={"prompt": "x" * 2_000_000})
    assert answer.status_code == 413
    chunks = (b"x" * 65536 for _ in range(40))
    answer = http.post("/v1/images/generations", content=chunks, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 413)


# -- raw -------------------------------------------------------------------------------------------------------


def test_raw_bytes_with_seed_and_timings_in_headers(http: httpx.Client) -> None:
    answer = http.get("/v1/generate", params={"prompt": "a fox", "seed": 9})
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-seed"] == "9"
    assert "decode;dur=" in answer.headers["server-timing"]
    assert opened(answer.content).size == (512, 512)
    posted = http.post("/v1/generate", json={"prompt": "a fox", "seed": 9})
    assert posted.content == answer.content


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x", "size": "513x7"}, "size"),
        ({"prompt": "x", "seed": "one"}, "seed"),
        ({"prompt": "x", "format": "bmp"}, "format"),
        ({"prompt": "x", "quality": 0}, "quality"),
        ({"prompt": "x", "sampler": "unipc"}, "sampler"),
        ({"prompt": "x", "guidance_scale": "nan"}, "guidance_scale"),
        ({"prompt": "x", "colour": "red"}, "colour"),
    ],
)
def test_bad_queries_are_named(http: httpx.Client, query: dict[str, Any], param: str) -> None:
    answer = http.get("/v1/generate", params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_row_that_fails_is_an_error_and_its_neighbours_are_drawn(http: httpx.Client) -> None:
    for prompt, status in (("nan", 500), ("boom", 500), ("refuse", 400), ("a fox", 200)):
        answer = http.get("/v1/generate", params={"prompt": prompt})
        assert answer.status_code == status, answer.text


# -- operations and the door -----------------------------------------------------------------------------------


def test_probes_metrics_docs_and_page(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"alive": True}
    assert http.get("/readyz").json()["ready"] is True
    assert http.get("/v1/generate", params={"prompt": "count me"}).status_code == 200
    text = http.get("/metrics").text
    for name in (
        "requests_total",
        "queue_seconds",
        "batch_size",
        "pass_seconds",
        "encode_seconds",
        "sessions",
    ):
        assert f"onestroke_{name}" in text
    assert http.get("/docs").status_code == 200
    page = http.get("/")
    assert "onestroke" in page.text.lower()
    assert "default-src 'self'" in page.headers["content-security-policy"]
    module = http.get("/static/onestroke.js")
    assert module.headers["content-type"].startswith("text/javascript")
    assert module.headers["cache-control"] == "no-cache"
    assert http.get("/static/../../settings.py").status_code == 404


def test_unknown_routes_and_methods_speak_the_envelope(http: httpx.Client) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/v1/generate", 405)):
        answer = http.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:8000"}, 200),
    ],
)
def test_foreign_pages_and_names_are_turned_away(
    http: httpx.Client, headers: dict[str, str], status: int
) -> None:
    assert http.get("/v1/models", headers=headers).status_code == status


def test_the_servers_own_page_may_call(http: httpx.Client, double_server: Server) -> None:
    assert http.get("/v1/models", headers={"origin": double_server.url}).status_code == 200


def test_a_key_guards_every_v1_route() -> None:
    key = {"authorization": "Bearer secret"}
    with (
        serving(env={"ONESTROKE_API_KEY": "secret"}) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for path in ("/v1/models", "/v1/generate?prompt=x"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=key).status_code == 200
        assert client.get("/livez").status_code == 200
