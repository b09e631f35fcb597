"""A picture as it came, and the readers of its two wire forms: an HTTP answer, a binary message."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Required, TypedDict
from urllib.parse import unquote

import httpx

from onestroke_client.errors import DrawingFailed, from_answer

Format = Literal["jpeg", "png", "webp"]


class Adapter(TypedDict):
    """A LoRA of the server by its name, and how strongly it acts."""

    name: str
    scale: float


class Control(TypedDict, total=False):
    """What a ControlNet of the server steers by; its name may be left out where there is one.

    `preprocess` is "none" or "canny", which takes the picture's edges.
    """

    image: Required[bytes]
    name: str
    scale: float
    preprocess: Literal["none", "canny"]


class Expand(TypedDict, total=False):
    """Pixels of the drawn picture on each side of the one given, which fills the rest; 0 where none are said."""

    left: int
    top: int
    right: int
    bottom: int


class Drawing(TypedDict, total=False):
    """What may be said beside the prompt; the server's model has a default for each.

    `size` is "WIDTHxHEIGHT"; `quality` is 1-100, for JPEG and WebP; `negative_prompt` wants a
    `guidance_scale` above 1. `image` is a file's bytes (PNG, JPEG, WebP) to start from: `strength` (above 0 to 1)
    says how far to leave it behind, and on Muse models `mask` what of it is painted anew, or `expand` how much is
    painted around it.
    """

    model: str
    seed: int
    steps: int
    guidance_scale: float
    negative_prompt: str
    sampler: str
    size: str
    quality: int
    adapters: list[Adapter]
    image: bytes
    strength: float
    mask: bytes
    expand: Expand
    control: Control


def spelled(drawing: Drawing, spell: Callable[[bytes], str]) -> dict[str, Any]:
    """`drawing` with its pictures as they go over the wire."""
    fields: dict[str, Any] = dict(drawing)
    for name in ("image", "mask"):
        if name in fields:
            fields[name] = spell(fields[name])
    if "control" in fields:
        fields["control"] = {**fields["control"], "image": spell(fields["control"]["image"])}
    return fields


@dataclass(frozen=True, slots=True)
class Picture:
    """`data` is the file's bytes; the same request with `seed` draws it again.

    `timings` are the server's, in milliseconds: queue, encode, step, decode, image. `truncated` says that the
    prompt was longer than the model reads, `revised_prompt` how it was read where slips in it were put right.
    `batch_size` is how many rows shared its last pass.
    """

    data: bytes = field(repr=False)
    prompt: str
    seed: int
    content_type: str
    width: int
    height: int
    steps: int
    timings: Mapping[str, float]
    truncated: bool
    batch_size: int
    revised_prompt: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file as it came (the format was chosen when it was asked for); returns its path."""
        path = Path(path)
        path.write_bytes(self.data)
        return path


def from_response(prompt: str, response: httpx.Response) -> Picture:
    """The picture in an answer of `/v1/generate`. Raises OnestrokeError when there is none."""
    headers = response.headers
    if response.status_code != 200:
        try:
            body = response.json()
        except ValueError:
            body = None
        raise from_answer(response.status_code, headers, body)
    try:
        width, height = headers["x-size"].split("x")
        return Picture(
            data=response.content,
            prompt=prompt,
            seed=int(headers["x-seed"]),
            content_type=headers["content-type"],
            width=int(width),
            height=int(height),
            steps=int(headers["x-steps"]),
            timings=_timings(headers["server-timing"]),
            truncated=headers["x-prompt-truncated"] == "true",
            batch_size=int(headers["x-batch-size"]),
            revised_prompt=unquote(headers["x-revised-prompt"]) if "x-revised-prompt" in headers else None,
        )
    except (KeyError, ValueError) as error:
        raise DrawingFailed(f"not an Onestroke server's answer: {error}") from error


def _timings(header: str) -> dict[str, float]:
    """Server-Timing: `name;dur=milliseconds, ...`."""
    entries = (entry.split(";dur=") for entry in header.split(", "))
    return {name: float(milliseconds) for name, milliseconds in entries}


def from_binary(message: bytes) -> tuple[int, Picture]:
    """(seq, picture) of a stream's binary message: [u32 big-endian header length][JSON header][image bytes]."""
    (length,) = struct.unpack_from(">I", message)
    header = json.loads(message[4 : 4 + length])
    names = (
        "prompt",
        "seed",
        "content_type",
        "width",
        "height",
        "steps",
        "timings",
        "truncated",
        "batch_size",
    )
    given = {name: header[name] for name in names}
    picture = Picture(data=message[4 + length :], revised_prompt=header.get("revised_prompt"), **given)
    return header["seq"], picture


def to_binary(header: Mapping[str, Any], data: bytes) -> bytes:
    """The same form, for a picture that is sent to the server."""
    encoded = json.dumps(header).encode()
    return struct.pack(">I", len(encoded)) + encoded + data
