"""The raw face: a prompt in, image bytes out. Usable as `<img src>` and with curl."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from onestroke.api.adapters import Adapter, uses_in, uses_of
from onestroke.api.context import Context, Served
from onestroke.api.drawing import draw, tenant_of
from onestroke.api.resolve import Ask, resolve
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
    adapters: list[Adapter] = Field([], description="LoRAs and their scales.")

    def ask(self) -> Ask:
        return Ask(**{**self.model_dump(), "adapters": uses_of(self.adapters)})


IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {each.media_type: {} for each in ImageFormat}, "description": "The picture."}
}


@router.get("/generate", response_class=Response, responses=IMAGE)
async def generate_get(
    query: Annotated[GenerateQuery, Query()], context: Served, request: Request
) -> Response:
    """One picture as bytes; seed and timings stand in the headers."""
    return await _generate(query, context, request)


@router.post("/generate", response_class=Response, responses=IMAGE)
async def generate_post(body: GenerateBody, context: Served, request: Request) -> Response:
    """One picture as bytes; seed and timings stand in the headers."""
    return await _generate(body, context, request)


async def _generate(asked: Generate, context: Context, request: Request) -> Response:
    requests = resolve(asked.ask(), context.specs, context.settings.max_prompt_chars)
    (picture,) = await draw(context, request, requests, tenant_of(request))
    return Response(
        picture.data, media_type=picture.request.format.media_type, headers=headers_of(picture, asked)
    )


def headers_of(picture: Picture, asked: Generate) -> dict[str, str]:
    """A picture whose seed was given is a function of its URL, so it may be cached."""
    timings = picture.timings.milliseconds()
    return {
        "X-Seed": str(picture.request.seed),
        "X-Model": picture.request.model,
        "X-Size": f"{picture.request.width}x{picture.request.height}",
        "X-Steps": str(picture.request.steps),
        "X-Batch-Size": str(picture.batch_size),
        "X-Prompt-Truncated": str(picture.truncated).lower(),
        "Server-Timing": ", ".join(f"{name};dur={value}" for name, value in timings.items()),
        "Cache-Control": "no-store" if asked.seed is None else "private, max-age=3600",
    }
