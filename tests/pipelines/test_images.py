"""Pictures come back out of their files, and so does what they were asked for."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from onestroke.core import AdapterUse, GenerationRequest, ImageFormat
from onestroke.pipelines.images import Pixels, encode_image, infotext

REQUEST = GenerationRequest(
    "tiny",
    'a cat, "sitting" on a naïve 猫 🐈\nnext line',
    seed=2**53 - 1,
    steps=4,
    guidance_scale=1.5,
    negative_prompt="dogs",
    sampler="lcm",
    timesteps=(999, 749, 499, 249),
    width=96,
    height=64,
    quality=90,
)


@pytest.fixture
def pixels() -> Pixels:
    y, x = np.mgrid[0:64, 0:96]
    return np.stack([x * 2, y * 3, 255 - x - y], axis=-1).clip(0, 255).astype(np.uint8)


def comment_of(data: bytes) -> str:
    raw = Image.open(io.BytesIO(data)).getexif().get_ifd(0x8769)[0x9286]
    assert raw[:8] == b"UNICODE\0"
    return bytes(raw[8:]).decode("utf-16-be")


@pytest.mark.parametrize("kind", list(ImageFormat))
def test_a_picture_comes_back_out_of_its_file(kind: ImageFormat, pixels: Pixels) -> None:
    data = encode_image(pixels, replace(REQUEST, format=kind))
    image = Image.open(io.BytesIO(data))
    assert image.format == kind.name
    off = np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels)
    assert off.max() == 0 if kind is ImageFormat.PNG else off.mean() < 3


@pytest.mark.parametrize("kind", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_jpeg_and_webp_carry_the_request_as_a_user_comment(kind: ImageFormat, pixels: Pixels) -> None:
    assert comment_of(encode_image(pixels, replace(REQUEST, format=kind))) == infotext(REQUEST)


def test_png_carries_the_request_as_its_parameters(pixels: Pixels) -> None:
    data = encode_image(pixels, replace(REQUEST, format=ImageFormat.PNG))
    image = Image.open(io.BytesIO(data))
    assert image.text["parameters"] == infotext(REQUEST)  # type: ignore[attr-defined]


def test_jfif_stays_the_first_segment_of_a_jpeg(pixels: Pixels) -> None:
    data = encode_image(pixels, REQUEST)
    assert data[:4] == b"\xff\xd8\xff\xe0"
    assert data[6:10] == b"JFIF"
    assert b"Exif\0\0" in data[:64]


@pytest.mark.parametrize("kind", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_quality_moves_the_size(kind: ImageFormat, pixels: Pixels) -> None:
    rng = np.random.default_rng(0)
    noisy = (pixels + rng.integers(0, 60, pixels.shape)).clip(0, 255).astype(np.uint8)
    low, high = (
        len(encode_image(noisy, replace(REQUEST, format=kind, quality=quality))) for quality in (20, 95)
    )
    assert low < high / 2


def test_a_prompt_too_long_for_a_segment_leaves_a_sound_jpeg(pixels: Pixels) -> None:
    data = encode_image(pixels, replace(REQUEST, prompt="x" * 40_000))
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.getexif().get_ifd(0x8769) == {}


def test_rows_that_are_not_contiguous_are_encoded_too(pixels: Pixels) -> None:
    assert encode_image(pixels[:, ::-1], REQUEST) == encode_image(pixels[:, ::-1].copy(), REQUEST)


def test_the_infotext_is_automatic1111s() -> None:
    lines = infotext(REQUEST).split("\n")
    assert "\n".join(lines[:2]) == REQUEST.prompt
    assert lines[2] == "Negative prompt: dogs"
    assert lines[3] == (
        "Steps: 4, Sampler: LCM, CFG scale: 1.5, Seed: 9007199254740991, Size: 96x64, Model: tiny, "
        "Version: onestroke, Timesteps: 999 749 499 249"
    )


def test_loras_stand_in_the_prompt_as_automatic1111_writes_them() -> None:
    used = replace(REQUEST, prompt="a cat", adapters=(AdapterUse("ink", 0.5), AdapterUse("pixel", 1.0)))
    assert infotext(used).split("\n")[0] == "a cat <lora:ink:0.5> <lora:pixel:1>"


def test_an_absent_negative_prompt_is_absent_and_a_model_with_a_comma_is_quoted() -> None:
    text = infotext(replace(REQUEST, negative_prompt=None, model="a, b"))
    assert "Negative prompt" not in text
    assert 'Model: "a, b"' in text
