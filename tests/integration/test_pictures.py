"""Pictures in, pictures out, over REST from a real server with a tiny model of random weights."""

from __future__ import annotations

import base64
import io
import itertools
import json
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from diffusers import UNet2DConditionModel
from PIL import Image, ImageChops
from typer.testing import CliRunner
from websockets.sync.client import connect

import onestroke_client
from onestroke.cli import cli
from onestroke_client import AsyncClient, Client, Picture
from tests.pictures import colours, encoded
from tests.pipelines.loras import random_factors, save_kohya
from tests.pipelines.tiny_models import save_tiny_muse, save_tiny_sd, tiny_control
from tests.servers import Server, serving

pytestmark = pytest.mark.integration

SIZE = (64, 64)
BOUND = 2
"""Levels of 255 between batch buckets, in fp32."""
START = base64.b64encode(encoded(colours(SIZE))).decode()


ON = ("--device", "cpu", "--dtype", "float32", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tiny")
    save_tiny_sd(folder / "sd15", "sd15")
    unet = UNet2DConditionModel.from_pretrained(folder / "sd15", subfolder="unet")
    tiny_control(unet).save_pretrained(folder / "edge")
    save_kohya(folder / "ink.safetensors", {"unet": random_factors(unet)})
    save_tiny_muse(folder / "muse")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    models = ("--model", str(folder / "sd15"), "--model", str(folder / "muse"))
    controls = ("--controlnet", f"edge={folder / 'edge'}")
    adapter = ("--adapter", f"ink={folder / 'ink.safetensors'}")
    with serving(*models, *controls, *adapter, *ON, double=False) as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def draw(http: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"prompt": "a cat", "seed": 5, "steps": 4, "format": "png", "guidance_scale": 1, **fields}
    return http.post("/v1/generate", json=body)


def pixels(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), int)


def test_a_picture_is_started_from(http: httpx.Client) -> None:
    answer = draw(http, image=START, strength=0.5)
    assert answer.headers["x-steps-taken"] == "2"
    assert "x-image-resized-from" not in answer.headers
    weak, strong, none = (
        pixels(each) for each in (answer, draw(http, image=START, strength=1.0), draw(http))
    )
    assert np.abs(weak - strong).mean() > 5
    assert np.abs(strong - none).mean() > 1
    assert (pixels(draw(http, image=f"data:image/png;base64,{START}", strength=0.5)) == weak).all()


def test_a_picture_of_another_size_is_resized_and_said_to_be(http: httpx.Client) -> None:
    large = base64.b64encode(encoded(colours((300, 200)), "JPEG")).decode()
    answer = draw(http, image=large)
    assert pixels(answer).shape == (64, 64, 3)
    assert answer.headers["x-image-resized-from"] == "300x200"


LINES = base64.b64encode(encoded(colours(SIZE, 3))).decode()


def test_a_picture_steers(http: httpx.Client) -> None:
    plain, steered, weakly, edges = (
        pixels(draw(http, **fields))
        for fields in (
            {},
            {"control": {"image": LINES}},
            {"control": {"image": LINES, "name": "edge", "scale": 0.3}},
            {"control": {"image": LINES, "preprocess": "canny"}},
        )
    )
    for one, other in itertools.combinations((plain, steered, weakly, edges), 2):
        assert np.abs(one - other).mean() > 2
    nothing = draw(http, control={"image": LINES, "scale": 0})
    assert np.abs(pixels(nothing) - plain).max() <= BOUND
    large = base64.b64encode(encoded(colours((300, 200)))).decode()
    assert draw(http, control={"image": large}).headers["x-control-resized-from"] == "300x200"


def test_in_mixed_traffic_every_picture_is_the_one_it_gets_alone(http: httpx.Client) -> None:
    """One step, four and twenty, from a picture, by a ControlNet, both: all at once, in shared passes."""
    asked: list[dict[str, Any]] = [
        {"steps": 1, "sampler": "euler"},
        {"steps": 4, "sampler": "lcm"},
        {"steps": 20, "guidance_scale": 3, "negative_prompt": "dogs"},
        {"steps": 4, "image": START, "strength": 0.5},
        {"steps": 4, "control": {"image": LINES, "scale": 0.6}, "guidance_scale": 3},
        {"steps": 5, "image": START, "strength": 0.6, "control": {"image": LINES, "preprocess": "canny"}},
    ]
    asked = [{**each, "seed": seed} for seed, each in enumerate(asked)]
    alone = [draw(http, **each) for each in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda each: draw(http, **each), asked))
    assert max(int(answer.headers["x-batch-size"]) for answer in together) > 1
    for one, other in zip(alone, together, strict=True):
        assert one.headers["x-batch-size"] == "1"
        assert pixels(one).std() > 20
        assert np.abs(pixels(one) - pixels(other)).max() <= BOUND


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("image", {"image": START[:-400]}),
        ("image", {"image": "https://example.org/picture.png"}),
        ("strength", {"image": START, "strength": 0}),
        ("strength", {"image": START, "strength": 0.2}),
        ("strength", {"strength": 0.5}),
        ("control.image", {"control": {"image": LINES[:-400]}}),
        ("control.name", {"control": {"image": LINES, "name": "pose"}}),
        ("control.scale", {"control": {"image": LINES, "scale": 3}}),
        ("control.preprocess", {"control": {"image": LINES, "preprocess": "hed"}}),
        ("mask", {"image": START, "mask": START}),
        ("mask", {"mask": START}),
        ("expand", {"expand": {"left": 8}}),
        ("expand", {"image": START, "expand": {"left": 8}}),
        ("expand", {"image": START, "model": "muse", "expand": {}}),
        ("expand", {"image": START, "model": "muse", "expand": {"left": 6}}),
        ("expand", {"image": START, "model": "muse", "expand": {"left": 32, "right": 32}}),
        ("expand", {"image": START, "model": "muse", "expand": {"left": 8}, "mask": START}),
        ("expand.top", {"image": START, "model": "muse", "expand": {"top": -8}}),
        ("expand.up", {"image": START, "model": "muse", "expand": {"up": 8}}),
        ("control.strength", {"control": {"image": LINES, "strength": 1}}),
    ],
)
def test_bad_input_names_its_field(http: httpx.Client, field: str, fields: dict[str, Any]) -> None:
    answer = draw(http, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_the_door_lets_pictures_in_where_they_are_taken(http: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    large = base64.b64encode(encoded(Image.fromarray(noise))).decode()
    assert len(large) > 2 << 20
    assert draw(http, image=large).status_code == 200
    refused = http.post("/v1/images/generations", json={"prompt": large})
    assert refused.status_code == 413


# -- OpenAI's edits --------------------------------------------------------------------------------------------


@pytest.fixture
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


PICTURE = ("picture.png", encoded(colours(SIZE)), "image/png")
LEFT = Image.new("L", SIZE)
LEFT.paste(255, (0, 0, 32, 64))
HOLE = colours(SIZE).convert("RGBA")
HOLE.putalpha(ImageChops.invert(LEFT))


def edited(sdk: openai.OpenAI, **fields: Any) -> list[Any]:
    extra = {"seed": 5, "num_inference_steps": 4, "guidance_scale": 1, **fields.pop("extra", {})}
    answer = sdk.images.edit(**{"image": PICTURE, "prompt": "a cat", "extra_body": extra, **fields})
    assert answer.data is not None
    data = [base64.b64decode(datum.b64_json or "") for datum in answer.data]
    return [np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), int) for each in data]


def test_the_sdk_edits_by_image_to_image(sdk: openai.OpenAI, http: httpx.Client) -> None:
    first, second = edited(sdk, n=2, extra={"strength": 0.5})
    assert np.abs(first - pixels(draw(http, image=START, strength=0.5))).max() <= BOUND
    assert np.abs(second - pixels(draw(http, image=START, strength=0.5, seed=6))).max() <= BOUND


@pytest.mark.parametrize("mask", ["white", "transparent"])
def test_the_sdk_paints_anew_what_a_mask_covers(sdk: openai.OpenAI, mask: str) -> None:
    data = encoded(LEFT if mask == "white" else HOLE)
    (inpainted,) = edited(sdk, model="muse", mask=("mask.png", data, "image/png"))
    (other,) = edited(sdk, model="muse", mask=("mask.png", data, "image/png"), extra={"seed": 6})
    off = np.abs(inpainted - other)  # the decoder's normalisation reaches over the whole picture
    assert off[:, 48:].mean() < 3 < 10 < off[:, :24].mean()


def test_without_a_mask_muse_edits_freely_as_the_paper_does(sdk: openai.OpenAI, http: httpx.Client) -> None:
    (free,) = edited(sdk, model="muse")
    (other,) = edited(sdk, model="muse", prompt="a dog", extra={"guidance_scale": 8})
    assert not np.array_equal(free, other)
    body = {"prompt": "a cat", "model": "muse", "image": START}
    answer = http.post("/v1/generate", json=body)
    assert answer.headers["x-steps"] == "100"


def test_muse_paints_around_a_picture_on_every_face(
    server: Server, sdk: openai.OpenAI, typist: Typist, http: httpx.Client
) -> None:
    """The same as inpainting what lies around it, its edges drawn out."""
    part = colours((48, 32))
    around = ((32, 0), (8, 8), (0, 0))
    canvas = Image.fromarray(np.pad(np.asarray(part), around, mode="edge"))
    outside = Image.new("L", SIZE, 255)
    outside.paste(0, (8, 32, 56, 64))
    given = [base64.b64encode(encoded(each)).decode() for each in (part, canvas, outside)]
    margins: Any = {"left": 8, "top": 32, "right": 8}
    fields: Any = {"model": "muse", "guidance_scale": 3}
    answer = draw(http, image=given[0], expand=margins, **fields)
    assert "x-image-resized-from" not in answer.headers
    painted = pixels(answer)
    assert np.array_equal(painted, pixels(draw(http, image=given[1], mask=given[2], **fields)))
    elsewhere = draw(http, image=given[0], expand={"left": 16, "top": 32}, **fields)
    assert not np.array_equal(painted, pixels(elsewhere))

    data = encoded(part)
    extra = {"guidance_scale": 3, "expand": margins}
    (by_sdk,) = edited(sdk, model="muse", image=("part.png", data, "image/png"), extra=extra)
    typist.send("part", data)
    _, typed = typist.draw(1, image="part", expand=margins, **fields)
    with Client(server.url) as client:
        by_client = client.generate(
            "a cat", format="png", seed=5, steps=4, image=data, expand=margins, **fields
        )
    for other in (by_sdk, typed, np.asarray(Image.open(io.BytesIO(by_client.data)).convert("RGB"), int)):
        assert np.array_equal(painted, other)

    larger = draw(http, image=START, expand=margins, **fields)
    assert larger.headers["x-image-resized-from"] == "64x64"


def test_an_edit_streams_its_completed_picture(sdk: openai.OpenAI) -> None:
    (event,) = sdk.images.edit(image=PICTURE, prompt="a cat", stream=True, extra_body={"seed": 5})
    assert event.type == "image_edit.completed"


@pytest.mark.parametrize(
    ("field", "data", "files"),
    [
        ("image", {}, {}),
        ("image", {"image": "text"}, {}),
        ("image", {}, {"image": ("a.png", b"not a picture")}),
        ("image", {}, [("image[]", PICTURE), ("image[]", PICTURE)]),
        ("picture", {}, {"image": PICTURE, "picture": PICTURE}),
        ("mask", {}, {"image": PICTURE, "mask": ("m.png", encoded(LEFT))}),
        ("mask", {"model": "muse"}, {"image": PICTURE, "mask": ("m.png", encoded(LEFT.resize((32, 32))))}),
        ("mask", {"model": "muse"}, {"image": PICTURE, "mask": ("m.png", encoded(Image.new("L", SIZE)))}),
        ("strength", {"strength": "0"}, {"image": PICTURE}),
        ("strength", {"model": "muse", "strength": "0.5"}, {"image": PICTURE}),
        ("expand.left", {"model": "muse", "expand[left]": "wide"}, {"image": PICTURE}),
        ("expand", {"model": "muse", "expand[left]": "8", "expand": "8"}, {"image": PICTURE}),
        ("expand", {"expand[left]": "8"}, {"image": PICTURE}),
        ("n", {"n": "eleven"}, {"image": PICTURE}),
        ("input_fidelity", {"input_fidelity": "high"}, {"image": PICTURE}),
        ("response_format", {"response_format": "url"}, {"image": PICTURE}),
        ("control", {"control": "x"}, {"image": PICTURE}),
    ],
)
def test_a_bad_edit_names_its_field(http: httpx.Client, field: str, data: Any, files: Any) -> None:
    answer = http.post("/v1/images/edits", data={"prompt": "a cat", **data}, files=files or None)
    assert answer.status_code == 400
    if files:
        assert answer.json()["error"]["param"] == field


# -- the socket ------------------------------------------------------------------------------------------------


class Typist:
    """A socket that has said hello and is ready."""

    def __init__(self, server: Server) -> None:
        self.socket = connect(server.socket_url, max_size=None)
        self.socket.send(json.dumps({"type": "hello", "format": "png"}))
        self.ready = self.heard("ready")

    def send(self, name: str, data: bytes) -> None:
        header = json.dumps({"type": "image", "id": name}).encode()
        self.socket.send(struct.pack(">I", len(header)) + header + data)

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def heard(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these kinds."""
        while True:
            message = self.socket.recv(timeout=30)
            if isinstance(message, str) and json.loads(message)["type"] in kinds:
                return dict(json.loads(message))

    def draw(self, seq: int, **fields: Any) -> tuple[dict[str, Any], Any]:
        key = {"prompt": "a cat", "seed": 5, "steps": 4, "guidance_scale": 1, **fields}
        self.say(type="generate", seq=seq, **key)
        while isinstance(message := self.socket.recv(timeout=30), str):
            assert json.loads(message)["type"] != "error", message
        (length,) = struct.unpack_from(">I", message)
        image = Image.open(io.BytesIO(message[4 + length :]))
        return json.loads(message[4 : 4 + length]), np.asarray(image.convert("RGB"), int)


@pytest.fixture
def typist(server: Server) -> Iterator[Typist]:
    made = Typist(server)
    yield made
    made.socket.close()


def test_a_picture_is_sent_once_and_typed_over(typist: Typist, http: httpx.Client) -> None:
    assert typist.ready["limits"]["max_pictures"] == 4
    assert typist.ready["limits"]["preprocess"] == ["none", "canny"]
    assert typist.ready["model"]["controls"] == ["edge"]
    typist.send("sketch", encoded(colours(SIZE)))
    typist.send("lines", encoded(colours((300, 200), 3)))
    assert typist.heard("kept") == {"type": "kept", "id": "sketch", "width": 64, "height": 64}
    _, over = typist.draw(1, image="sketch", strength=0.5)
    assert np.abs(over - pixels(draw(http, image=START, strength=0.5))).max() <= BOUND
    _, other = typist.draw(2, image="sketch", strength=0.5, prompt="a dog")
    assert np.abs(other - over).mean() > 1
    header, steered = typist.draw(3, image="sketch", strength=0.5, control={"image": "lines", "scale": 0.6})
    assert np.abs(steered - over).mean() > 1
    assert header["control_resized_from"] == [300, 200]
    _, plain = typist.draw(4)
    assert np.abs(plain - pixels(draw(http))).max() <= BOUND


def test_muse_repaints_over_the_socket(typist: Typist) -> None:
    typist.send("picture", encoded(colours(SIZE)))
    typist.send("mask", encoded(LEFT))
    _, first = typist.draw(1, model="muse", image="picture", mask="mask", guidance_scale=3)
    _, second = typist.draw(2, model="muse", image="picture", mask="mask", guidance_scale=3, seed=6)
    off = np.abs(first - second)
    assert off[:, 48:].mean() < 3 < 10 < off[:, :24].mean()


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("image", {"image": "forgotten"}),
        ("image", {"image": "never sent"}),
        ("control.image", {"control": {"image": "never sent"}}),
        ("control.name", {"control": {"image": "kept", "name": "pose"}}),
        ("strength", {"image": "kept", "strength": 0}),
        ("strength", {"image": "kept", "strength": 0.2, "steps": 2}),
        ("mask", {"image": "kept", "mask": "kept"}),
    ],
)
def test_a_bad_key_names_its_field(typist: Typist, field: str, fields: dict[str, Any]) -> None:
    for name in ("forgotten", "kept"):
        typist.send(name, encoded(colours(SIZE)))
    typist.say(type="forget", id="forgotten")
    typist.say(type="generate", seq=1, prompt="a cat", **fields)
    error = typist.heard("error")
    assert (error["seq"], error["field"]) == (1, field)
    typist.draw(2, image="kept", strength=0.5)


@pytest.mark.parametrize("data", [b"", b"nothing", encoded(colours(SIZE))[:-300]])
def test_a_bad_picture_is_refused_and_not_kept(typist: Typist, data: bytes) -> None:
    typist.send("bad", data)
    assert typist.heard("error", "kept")["field"] == "image"
    typist.socket.send(b"not even a header")
    assert typist.heard("error")["field"] == "id"
    typist.say(type="generate", seq=1, prompt="a cat", image="bad")
    assert typist.heard("error")["field"] == "image"


# -- the command line ------------------------------------------------------------------------------------------


def test_the_command_line_draws_what_the_server_draws(
    http: httpx.Client, folder: Path, tmp_path: Path
) -> None:
    """From a picture, by a ControlNet, with an adapter; each of them is seen in what comes out."""
    (tmp_path / "start.png").write_bytes(encoded(colours(SIZE)))
    (tmp_path / "lines.png").write_bytes(encoded(colours(SIZE, 3)))
    flags = {
        "model": folder / "sd15",
        "seed": 5,
        "steps": 4,
        "guidance-scale": 3,
        "negative-prompt": "dogs",
        "image": tmp_path / "start.png",
        "strength": 0.5,
        "controlnet": f"edge={folder / 'edge'}",
        "control": tmp_path / "lines.png",
        "control-scale": 0.6,
        "preprocess": "canny",
        "adapter": f"ink={folder / 'ink.safetensors'}:0.5",
        "output": tmp_path / "cat.png",
    }
    arguments = [str(part) for flag, value in flags.items() for part in (f"--{flag}", value)]
    done = CliRunner().invoke(cli, ["generate", "a cat", *arguments, *ON])
    assert done.exit_code == 0, done.output
    drawn = np.asarray(Image.open(tmp_path / "cat.png").convert("RGB"), int)
    fields: dict[str, Any] = {
        "guidance_scale": 3,
        "negative_prompt": "dogs",
        "image": START,
        "strength": 0.5,
        "control": {"image": LINES, "scale": 0.6, "preprocess": "canny"},
        "adapters": [{"name": "ink", "scale": 0.5}],
    }
    assert np.abs(drawn - pixels(draw(http, **fields))).max() <= BOUND
    for name, other in (("adapters", []), ("control", None), ("strength", 0.75), ("negative_prompt", "")):
        assert np.abs(drawn - pixels(draw(http, **{**fields, name: other}))).max() > BOUND, name


# -- the Python client -----------------------------------------------------------------------------------------


async def test_the_client_sends_pictures_with_a_call_and_once_with_a_stream(
    server: Server, http: httpx.Client
) -> None:
    start, lines = encoded(colours(SIZE)), encoded(colours(SIZE, 3))
    fields: Any = {"seed": 5, "steps": 4, "guidance_scale": 1, "image": start, "strength": 0.5}
    expected = pixels(draw(http, image=START, strength=0.5))
    steered = pixels(draw(http, image=START, strength=0.5, control={"image": LINES, "scale": 0.6}))

    def off(picture: Picture, other: Any) -> int:
        return int(np.abs(np.asarray(Image.open(io.BytesIO(picture.data)), int) - other).max())

    with Client(server.url) as client:
        assert off(client.generate("a cat", format="png", **fields), expected) <= BOUND
    async with AsyncClient(server.url) as many, many.stream(format="png", **fields) as stream:
        assert off(await stream.draw("a cat"), expected) <= BOUND
        assert off(await stream.draw("a cat", control={"image": lines, "scale": 0.6}), steered) <= BOUND
        assert stream._connection is not None
        assert len(stream._connection.kept) == 2
        await stream.draw("a dog")
        assert len(stream._connection.kept) == 1
        with pytest.raises(onestroke_client.InvalidRequest, match="image is broken") as refused:
            await stream.draw("a cat", image=start[:-300])
        assert refused.value.field == "image"
        assert off(await stream.draw("a cat"), expected) <= BOUND
