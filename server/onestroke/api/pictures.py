"""Pictures that come in: checked, turned upright, brought to the size that is drawn; never on the event loop.

Any of PNG, JPEG and WebP is taken, told by its first bytes, up to MAX_BYTES and MAX_PIXELS, still pictures only.
A picture of another size than the drawn one is cut to its proportions round the middle and scaled; where more is
painted around it (`expand`), to what that leaves of the drawn one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from PIL import Image, ImageChops, ImageOps

from onestroke.api.edges import edges
from onestroke.api.resolve import Ask, check_start, control_name, drawn_size, find_model
from onestroke.core import Control, GenerationRequest, Margins, SourceImage
from onestroke.errors import InvalidRequest, Overloaded
from onestroke.models.specs import ModelSpec

MAX_BYTES = 8 << 20
MAX_PIXELS = 4096 * 4096
"""A few bytes can claim a huge picture; this many take 50 MB while they are read."""
FORMATS = ("PNG", "JPEG", "WEBP")
DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
UPRIGHT = 1
ORIENTATION = 0x0112
MAX_WAITING = 32

Image.MAX_IMAGE_PIXELS = None  # ours stands in its place

Size = tuple[int, int]
Result = TypeVar("Result")

_readers = ThreadPoolExecutor(2, thread_name_prefix="pictures")
_waiting = 0


Given = bytes | str
"""A picture as bytes, base64 or a data URL."""
Preprocess = Literal["none", "canny"]
MAX_SCALE = 2.0


@dataclass(frozen=True, slots=True)
class Steering:
    """A control image as it was given: `preprocess` canny takes its edges, none takes it as it is."""

    image: Given
    name: str | None = None
    scale: float = 1.0
    preprocess: Preprocess = "none"


async def with_pictures(
    ask: Ask,
    specs: Sequence[ModelSpec],
    *,
    image: Given | None = None,
    mask: Given | None = None,
    steering: Steering | None = None,
) -> Ask:
    """`ask` with the picture to start from, the mask of what is painted anew and the picture to steer by.

    Where no size is asked for, the model's that is nearest in proportions is drawn. Raises InvalidRequest.
    """
    if mask is not None and image is None:
        raise InvalidRequest("mask goes with image: give the picture that it is for", "mask")
    if image is None and steering is None:
        return ask
    spec = find_model(ask.model, specs)
    if image is not None:
        check_start(ask, spec, masked=mask is not None)
    if steering is not None:
        steering = replace(steering, name=control_name(steering.name, spec))
        if not 0 <= steering.scale <= MAX_SCALE:
            raise InvalidRequest(
                f"control.scale must be from 0 to {MAX_SCALE:g}, got {steering.scale:g}", "control.scale"
            )
    return await aside(lambda: _read(ask, spec, image, mask, steering))


def _read(
    ask: Ask, spec: ModelSpec, image: Given | None, mask: Given | None, steering: Steering | None
) -> Ask:
    start = None if image is None else Upload(image, "image")
    guide = None if steering is None else Upload(steering.image, "control.image")
    first = start or guide
    auto = ask.size in (None, "auto") and first is not None
    size = nearest(first.size, spec.sizes) if first and auto else drawn_size(ask.size, spec)
    inside = _inside(ask.expand, size) if ask.expand else size
    ask = replace(ask, size="{}x{}".format(*size), image=None if start is None else start.fit(inside))
    if mask is not None and start is not None:
        ask = replace(ask, mask=_mask(Upload(mask, "mask"), start.size, size))
    if guide is None or steering is None:
        return ask
    fitted = guide.fit(size)
    if steering.preprocess == "canny":
        fitted = edges(fitted)
    return replace(ask, control=Control(steering.name or "", fitted, steering.scale))


def _inside(expand: Margins, size: Size) -> Size:
    """What `expand` leaves of `size` for the picture. Raises InvalidRequest."""
    inside = expand.within(size)
    if min(inside) < 1:
        raise InvalidRequest(
            "expand leaves no room for the picture in the {}x{} that are drawn: give smaller margins".format(
                *size
            ),
            "expand",
        )
    return inside


def _mask(mask: Upload, of: Size, size: Size) -> SourceImage:
    """`mask`, for a picture that came in the size `of`, at `size`. Raises InvalidRequest where it is of another."""
    if mask.size != of:
        raise InvalidRequest(
            "mask is {}x{} and its image {}x{}: give one of the same size".format(*mask.size, *of), "mask"
        )
    return mask.as_mask(size)


class Upload:
    """A picture that has come in. Raises InvalidRequest, naming `field`, for what cannot be taken."""

    def __init__(self, given: Given, field: str) -> None:
        self.data = from_base64(given, field) if isinstance(given, str) else given
        self._image = _opened(self.data, field)
        self._turn = int(self._image.getexif().get(ORIENTATION, UPRIGHT))

    @property
    def size(self) -> Size:
        """(width, height) as it is to be seen."""
        size = self._image.size
        return size[::-1] if self._turn > 4 else size

    def fit(self, size: Size) -> SourceImage:
        """It at `size`; as it came where nothing is to be done, else as JPEG or PNG."""
        if self.size == size and self._turn == UPRIGHT and self._image.mode in ("RGB", "L"):
            return SourceImage.of(self.data)
        fitted = _opaque(ImageOps.exif_transpose(self._image))
        if fitted.size != size:
            fitted = ImageOps.fit(fitted, size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        if self._image.format in ("JPEG", "MPO"):
            fitted.save(buffer, "JPEG", quality=95, subsampling=0)
        else:
            fitted.save(buffer, "PNG", compress_level=1)
        return SourceImage.of(buffer.getvalue(), None if self.size == size else self.size)

    def as_mask(self, size: Size) -> SourceImage:
        """White where it is transparent, as OpenAI has it, or, where nothing is, where it is white."""
        upright = ImageOps.exif_transpose(self._image)
        if upright.has_transparency_data:
            shade = ImageChops.invert(upright.convert("RGBA").getchannel("A"))
        else:
            shade = upright.convert("L")
        buffer = io.BytesIO()
        ImageOps.fit(shade, size, Image.Resampling.NEAREST).save(buffer, "PNG", compress_level=1)
        return SourceImage.of(buffer.getvalue())


def nearest(size: Size, sizes: tuple[Size, ...]) -> Size:
    """Of `sizes` the one with the proportions that are nearest to those of `size`; the earlier of equals."""

    def off(each: Size) -> float:
        ratio = each[0] * size[1] / (each[1] * size[0])
        return max(ratio, 1 / ratio)

    return min(sizes, key=off)


def from_base64(text: str, field: str) -> bytes:
    """The bytes of plain base64 or of a data URL. Raises InvalidRequest."""
    head = DATA_URL.match(text[:100])
    try:
        return base64.b64decode(text[head.end() :] if head else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field} must be base64 or a data URL of an image: {error}", field) from error


def resized(request: GenerationRequest) -> dict[str, Size]:
    """Which of its pictures were brought to the drawn size, and the (width, height) that they came in."""
    pictures = {"image": request.image, "control": request.control and request.control.image}
    return {
        f"{name}_resized_from": image.resized_from
        for name, image in pictures.items()
        if image and image.resized_from
    }


async def aside(function: Callable[[], Result]) -> Result:
    """What `function` makes, in one of the threads that read pictures. Raises Overloaded when they lag behind."""
    global _waiting
    if _waiting >= MAX_WAITING:
        raise Overloaded("too many pictures are being read", retry_after=1.0)
    _waiting += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_readers, function)
    finally:
        _waiting -= 1


def _opened(data: bytes, field: str) -> Image.Image:
    """The picture, decoded once its header is found to be in order. Raises InvalidRequest."""
    if len(data) > MAX_BYTES:
        raise InvalidRequest(
            f"{field} has {len(data):,} bytes; at most {MAX_BYTES:,} are taken: scale it down", field
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidRequest(f"{field} is no PNG, JPEG or WebP picture that can be read", field) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InvalidRequest(
            f"{field} is {width}x{height}; at most {MAX_PIXELS:,} pixels are taken: scale it down", field
        )
    if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras' JPEGs with a thumbnail
        raise InvalidRequest(f"{field} is animated: give one still picture", field)
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidRequest(f"{field} is broken: {error}", field) from error
    return image


def _opaque(image: Image.Image) -> Image.Image:
    """In RGB; what is transparent lies on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    return Image.alpha_composite(white, seen).convert("RGB")
