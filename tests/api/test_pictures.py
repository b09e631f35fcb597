"""Pictures that come in: what is taken, what it becomes, and what is refused by name."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from onestroke.api import pictures
from onestroke.api.pictures import MAX_BYTES, Upload, from_base64, nearest, with_pictures
from onestroke.api.resolve import Ask, resolve
from onestroke.errors import InvalidRequest
from onestroke.models.catalog import CATALOG, SDXL_SIZES
from tests.pictures import colours, encoded

SIZE = (64, 64)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_of_the_right_size_stays_as_it_came(kind: str) -> None:
    data = encoded(colours(SIZE), kind)
    made = Upload(data, "image").fit(SIZE)
    assert (made.data, made.resized_from) == (data, None)


@pytest.mark.parametrize(("kind", "becomes"), [("PNG", "PNG"), ("JPEG", "JPEG"), ("WEBP", "PNG")])
def test_another_size_is_cut_to_the_proportions_and_scaled(kind: str, becomes: str) -> None:
    wide = Image.new("RGB", (256, 64), "red")
    wide.paste("blue", (96, 0, 160, 64))
    made = Upload(encoded(wide, kind), "image").fit((32, 32))
    seen = opened(made.data)
    assert (seen.size, seen.format, made.resized_from) == ((32, 32), becomes, (256, 64))
    assert seen.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))[2] > 200


def test_a_turned_photograph_is_set_upright() -> None:
    image = colours((32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "JPEG", exif=exif, quality=100)
    assert Upload(data, "image").size == (64, 32)
    made = Upload(data, "image").fit((64, 32))
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270), int)
    assert made.resized_from is None
    assert np.abs(np.asarray(opened(made.data), int) - upright).mean() < 10


def test_what_is_transparent_lies_on_white() -> None:
    made = Upload(encoded(Image.new("RGBA", SIZE, (0, 0, 0, 0))), "image").fit(SIZE)
    assert opened(made.data).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


BAD = {
    "empty": (b"", "no PNG"),
    "text": (b"<html>not found</html>", "no PNG"),
    "another format": (encoded(colours(SIZE), "BMP"), "no PNG"),
    "a moving GIF": (encoded(colours(SIZE), "GIF"), "no PNG"),
    "cut short": (encoded(colours(SIZE))[:-600], "broken"),
    "cut behind its middle": (encoded(colours(SIZE))[:-300], "broken"),
    "a cut JPEG": (encoded(colours(SIZE), "JPEG")[:-200], "broken"),
    "moving": (
        encoded(colours(SIZE), "WEBP", save_all=True, append_images=[colours(SIZE, 1)]),
        "animated",
    ),
    "a bomb": (claims(60_000, 60_000), "60000x60000"),
    "nearly a bomb": (claims(10_000, 10_000), "10000x10000"),
    "too many bytes": (b"\x89PNG" + bytes(MAX_BYTES), "scale it down"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_taken_names_its_field(what: str) -> None:
    data, reason = BAD[what]
    with pytest.raises(InvalidRequest, match=reason) as refused:
        Upload(data, "control.image")
    assert refused.value.field == "control.image"
    assert "control.image" in refused.value.message


def test_base64_and_data_urls_are_read() -> None:
    data = encoded(colours(SIZE))
    text = base64.b64encode(data).decode()
    assert from_base64(text, "image") == from_base64(f"data:image/png;base64,{text}", "image") == data


@pytest.mark.parametrize("text", ["https://example.org/a.png", "???", "data:text/html;base64,AAAA", "AAA"])
def test_what_is_not_base64_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="base64 or a data URL"):
        from_base64(text, "image")


def test_the_nearest_size_is_that_of_the_nearest_proportions() -> None:
    assert nearest((4032, 3024), SDXL_SIZES) == (1152, 896)
    assert nearest((900, 1600), SDXL_SIZES) == (768, 1344)
    assert nearest((5, 5), SDXL_SIZES) == (1024, 1024)


SD = CATALOG["sd15"]
TURBO = CATALOG["sdxl-turbo"]
PICTURE = encoded(colours((800, 1200)))


async def test_without_a_size_the_nearest_of_the_model_is_drawn() -> None:
    ask = await with_pictures(Ask("a cat"), [SD], image=PICTURE)
    assert (ask.size, ask.image.resized_from if ask.image else None) == ("512x768", (800, 1200))
    ask = await with_pictures(Ask("a cat", size="512x512"), [SD], image=base64.b64encode(PICTURE).decode())
    assert ask.size == "512x512"


async def test_the_steps_that_are_taken_are_those_of_diffusers() -> None:
    ask = await with_pictures(Ask("a cat", steps=50, strength=0.33), [SD], image=PICTURE)
    (request,) = resolve(ask, [SD], 100)
    assert (request.steps, request.steps_taken, request.strength) == (50, 16, 0.33)


@pytest.mark.parametrize(("strength", "steps"), [(None, 2), (0.5, 2), (0.3, 4), (0.2, 5), (1.0, 1)])
async def test_a_one_step_model_takes_as_many_steps_as_the_strength_needs(
    strength: float | None, steps: int
) -> None:
    ask = await with_pictures(Ask("a cat", strength=strength), [TURBO], image=PICTURE)
    (request,) = resolve(ask, [TURBO], 100)
    assert (request.steps, request.steps_taken) == (steps, 1)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
async def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(InvalidRequest, match="strength must be above 0") as refused:
        await with_pictures(Ask("a cat", strength=strength), [SD], image=PICTURE)
    assert refused.value.field == "strength"


async def test_a_strength_that_leaves_no_step_says_what_would() -> None:
    ask = await with_pictures(Ask("a cat", steps=1, strength=0.4), [TURBO], image=PICTURE)
    with pytest.raises(InvalidRequest, match=r"raise strength to 1 or steps to 3") as refused:
        resolve(ask, [TURBO], 100)
    assert refused.value.field == "strength"


def test_a_strength_without_a_picture_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="strength goes with image"):
        resolve(Ask("a cat", strength=0.5), [SD], 100)


async def test_a_model_whose_encoder_was_never_trained_starts_from_no_picture() -> None:
    with pytest.raises(InvalidRequest, match="never trained") as refused:
        await with_pictures(Ask("a cat"), [CATALOG["embedded"]], image=PICTURE)
    assert refused.value.field == "image"


async def test_pictures_are_read_by_few_and_no_queue_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    from onestroke.errors import Overloaded

    monkeypatch.setattr(pictures, "MAX_WAITING", 0)
    with pytest.raises(Overloaded):
        await with_pictures(Ask("a cat"), [SD], image=PICTURE)


async def test_a_request_is_compared_by_its_pictures_digest_and_shows_no_bytes() -> None:
    ask = await with_pictures(Ask("a cat", seed=1), [SD], image=PICTURE)
    (request,) = resolve(ask, [SD], 100)
    assert request.image is not None
    assert hash(request) == hash(replace(request, image=replace(request.image, data=b"")))
    assert len(repr(request)) < 1000
