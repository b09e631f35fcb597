"""The raw face: a prompt in, image bytes out. Usable as `<img src>` and with curl."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from onestroke.api.adapters import Adapter, uses_in, uses_of
from onestroke.api.context import Context, Served
from onestroke.api.drawing import draw, tenant_of
from onestroke.api.pictures import resized, with_pictures
from onestroke.api.resolve import Ask, resolve
from onestroke.api.schemas import ControlImage, Expand, margins_of
from onestroke.core import ImageFormat, Picture

router = APIRouter(prefix="/v1", tags=["raw"])


class Generate(BaseModel):
    """What the query of a GET and the JSON body of a POST have in common."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    size: str | None = None
    format: ImageFormat = ImageFormat.JPEG
    quality: int | None = None

    def ask(self) -> Ask:
        raise NotImplementedError


class GenerateQuery(Generate):
    adapters: str = Field("", description="LoRAs as NAME:SCALE,NAME:SCALE; a scale of 1 may be left out.")

    def ask(self) -> Ask:
        return Ask(**{**self.model_dump(), "adapters": uses_in(self.adapters)})


class GenerateBody(Generate):
    """What a POST takes beside them: a picture to start from, and one to steer by."""

    image: str | None = Field(None, description="Base64 or a data URL of a PNG, JPEG or WebP picture.")
    strength: float | None = Field(
        None, description="Above 0, at most 1: how much of `image` is left behind."
    )
    mask: str | None = Field(
        None, description="What of `image` a Muse model paints anew: what is transparent, or else white."
    )
    expand: Expand | None = Field(
        None, description="Outpainting: how many pixels a Muse model paints on each side of `image`."
    )
    control: ControlImage | None = Field(None, description="A picture that a ControlNet steers by.")
    adapters: list[Adapter] = Field([], description="LoRAs and their scales.")

    def ask(self) -> Ask:
        plain = self.model_dump(exclude={"image", "mask", "control"})
        return Ask(
            **{**plain, "adapters": uses_of(self.adapters), "expand": margins_of(self.expand)},
        )


IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {each.media_type: {} for each in ImageFormat}, "description": "The picture."}
}


@router.get("/generate", response_class=Response, responses=IMAGE)
async def generate_get(
    query: Annotated[GenerateQuery, Query()], context: Served, request: Request
) -> Response:
    """One picture as bytes; seed and timings stand in the headers."""
    return await _generate(query, query.ask(), context, request)


@router.post("/generate", response_class=Response, responses=IMAGE)
async def generate_post(body: GenerateBody, context: Served, request: Request) -> Response:
    """One picture as bytes; seed and timings stand in the headers."""
    steering = body.control.steering() if body.control else None
    ask = await with_pictures(body.ask(), context.specs, image=body.image, mask=body.mask, steering=steering)
    return await _generate(body, ask, context, request)


async def _generate(asked: Generate, ask: Ask, context: Context, request: Request) -> Response:
    requests = resolve(ask, context.specs, context.settings.max_prompt_chars)
    (picture,) = await draw(context, request, requests, tenant_of(request))
    return Response(
        picture.data, media_type=picture.request.format.media_type, headers=headers_of(picture, asked)
    )


def headers_of(picture: Picture, asked: Generate) -> dict[str, str]:
    """A picture whose seed was given is a function of its URL, so it may be cached."""
    request, timings = picture.request, picture.timings.milliseconds()
    headers = {
        "X-Seed": str(request.seed),
        "X-Model": request.model,
        "X-Size": f"{request.width}x{request.height}",
        "X-Steps": str(request.steps),
        "X-Batch-Size": str(picture.batch_size),
        "X-Prompt-Truncated": str(picture.truncated).lower(),
        "Server-Timing": ", ".join(f"{name};dur={value}" for name, value in timings.items()),
        "Cache-Control": "no-store" if asked.seed is None else "private, max-age=3600",
    }
    if picture.revised_prompt is not None:
        headers["X-Revised-Prompt"] = quote(picture.revised_prompt)  # a header is Latin-1, a prompt is not
    if request.image:
        headers["X-Steps-Taken"] = str(request.steps_taken)
    for name, size in resized(request).items():
        headers["X-" + name.replace("_", "-").title()] = "{}x{}".format(*size)
    return headers
