"""OpenAI's face: images/generations and models, as its own SDK speaks them.

`usage` is left out of the answers: nothing is counted in tokens here.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onestroke.api.adapters import Adapter, spelled, uses_of
from onestroke.api.context import Context, Served
from onestroke.api.drawing import draw, tenant_of
from onestroke.api.errors import envelope, first_problem, status_of
from onestroke.api.forms import read_form
from onestroke.api.pictures import with_pictures
from onestroke.api.resolve import Ask, find_model, resolve
from onestroke.api.schemas import Expand, margins_of
from onestroke.core import GenerationRequest, ImageFormat, Picture
from onestroke.errors import InvalidRequest, OnestrokeError
from onestroke.models.specs import ModelSpec

router = APIRouter(prefix="/v1", tags=["OpenAI"])

CREATED = 1_767_225_600
"""The models list wants a time; it is the first edition's (2026-01-01), not the process's start."""


class ImageGeneration(BaseModel):
    """OpenAI's request. What is not among these fields, or not among their values, is refused by name."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = 1
    size: str | None = Field("auto", description="WIDTHxHEIGHT or auto")
    quality: Literal["auto", "standard"] | None = "auto"
    response_format: Literal["url", "b64_json"] | None = "b64_json"
    output_format: ImageFormat | None = ImageFormat.PNG
    output_compression: Annotated[int, Field(ge=1, le=100)] | None = None
    background: Literal["auto", "opaque"] | None = "auto"
    moderation: Literal["auto", "low"] | None = "auto"
    style: None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="An upper bound, as in OpenAI's API: one-step pictures have no partial ones."
    )
    stream: bool | None = False
    user: Annotated[str, Field(max_length=256)] | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    adapters: list[Adapter] | None = None

    def ask(self, context: Context) -> Ask:
        """Raises InvalidRequest."""
        image_format = self.output_format or ImageFormat.PNG
        if self.output_compression is not None and image_format is ImageFormat.PNG:
            raise InvalidRequest(
                "output_compression is for jpeg and webp; png is lossless", "output_compression"
            )
        if self.partial_images and not self.stream:
            raise InvalidRequest("partial_images needs stream: true", "partial_images")
        if self.response_format == "url" and (self.stream or context.settings.api_key):
            raise InvalidRequest("response_format url is not to be had here; use b64_json", "response_format")
        return Ask(
            prompt=self.prompt,
            model=self.model,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            size=self.size,
            format=image_format,
            quality=self.output_compression,
            adapters=uses_of(self.adapters),
            steps_field="num_inference_steps",
        )


class ImageEdit(ImageGeneration):
    """OpenAI's edit, beside its files `image` and `mask`; `strength` is for image-to-image, `expand` for Muse."""

    moderation: None = None
    input_fidelity: Literal["low"] | None = None
    strength: float | None = None
    expand: Expand | None = None

    def ask(self, context: Context) -> Ask:
        return replace(super().ask(context), strength=self.strength, expand=margins_of(self.expand))


@router.post("/images/generations", response_model=None)
async def generate_images(body: ImageGeneration, context: Served, request: Request) -> Response:
    """Draw `n` pictures in one batch.

    Extras: seed, num_inference_steps, guidance_scale, negative_prompt, adapters.
    """
    return await _answer(body, body.ask(context), context, request, "image_generation")


FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "prompt"],
                    "properties": {
                        **ImageEdit.model_json_schema(ref_template="#/components/schemas/{model}")[
                            "properties"
                        ],
                        "image": {"type": "string", "format": "binary"},
                        "mask": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


@router.post("/images/edits", response_model=None, openapi_extra=FORM)
async def edit_images(context: Served, request: Request) -> Response:
    """Draw `n` pictures from the one in `image` (PNG, JPEG, WebP).

    SDXL and SD models: image-to-image, by `strength`. Muse models: what `mask` covers is painted anew, what is
    transparent or else white, or what `expand` puts around the picture (`expand[left]=64`); without either the
    picture is edited towards the prompt.
    """
    fields, files = await read_form(request, ("image", "mask"))
    if "image" not in files:
        raise InvalidRequest("image is required: a PNG, JPEG or WebP file in a multipart form", "image")
    try:
        body = ImageEdit.model_validate(fields)
    except ValidationError as error:
        raise first_problem(error.errors(include_url=False)) from error
    if body.response_format == "url":
        raise InvalidRequest("an edit has no url that draws it again; use b64_json", "response_format")
    ask = await with_pictures(body.ask(context), context.specs, image=files["image"], mask=files.get("mask"))
    return await _answer(body, ask, context, request, "image_edit")


async def _answer(body: ImageGeneration, ask: Ask, context: Context, request: Request, kind: str) -> Response:
    asked = resolve(ask, context.specs, context.settings.max_prompt_chars, body.n or 1)
    tenant = tenant_of(request, body.user)
    if body.stream:
        return StreamingResponse(
            _events(context, request, asked, tenant, kind),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )
    pictures = await draw(context, request, asked, tenant)
    if body.response_format == "url":
        data = [{"url": picture_url(request, each.request), "seed": each.request.seed} for each in pictures]
    else:
        data = [_datum(each) for each in pictures]
    return _json({"created": int(time.time()), "data": data, **_said(asked[0])})


@router.get("/models")
async def list_models(context: Served) -> JSONResponse:
    """OpenAI's list; `onestroke` says more: licence, sizes, steps."""
    return JSONResponse({"object": "list", "data": [_model(context, spec) for spec in context.specs]})


@router.get("/models/{name}")
async def show_model(name: str, context: Served) -> JSONResponse:
    return JSONResponse(_model(context, find_model(name, context.specs)))


def picture_url(request: Request, asked: GenerationRequest) -> str:
    """A link that draws the same picture again: same request, same picture, so nothing needs to be kept."""
    query: dict[str, Any] = {
        "prompt": asked.prompt,
        "model": asked.model,
        "seed": asked.seed,
        "steps": asked.steps,
        "guidance_scale": asked.guidance_scale,
        "size": f"{asked.width}x{asked.height}",
        "format": asked.format.value,
    }
    if asked.format is not ImageFormat.PNG:
        query["quality"] = asked.quality
    if asked.adapters:
        query["adapters"] = spelled(asked.adapters)
    if asked.negative_prompt is not None:
        query["negative_prompt"] = asked.negative_prompt
    return f"{request.base_url}v1/generate?{urlencode(query)}"


def _model(context: Context, spec: ModelSpec) -> dict[str, Any]:
    return {
        "id": spec.name,
        "object": "model",
        "created": CREATED,
        "owned_by": "onestroke",
        "onestroke": context.model_card(spec),
    }


def _datum(picture: Picture) -> dict[str, Any]:
    datum = {
        "b64_json": base64.b64encode(picture.data).decode(),
        "seed": picture.request.seed,
        "truncated": picture.truncated,
    }
    return datum if picture.revised_prompt is None else {**datum, "revised_prompt": picture.revised_prompt}


def _said(asked: GenerationRequest) -> dict[str, Any]:
    return {
        "background": "opaque",
        "output_format": asked.format.value,
        "quality": "auto",
        "size": f"{asked.width}x{asked.height}",
    }


async def _events(
    context: Context, request: Request, asked: Sequence[GenerationRequest], tenant: str, kind: str
) -> AsyncIterator[bytes]:
    """One completed event per picture; an error ends the stream as the SDK expects it."""
    try:
        for picture in await draw(context, request, asked, tenant):
            event = {
                "type": f"{kind}.completed",
                **_datum(picture),
                "created_at": int(time.time()),
                **_said(picture.request),
            }
            yield f"event: {kind}.completed\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
    except OnestrokeError as error:
        _, error_type = status_of(error)
        body = envelope(error.message, error_type, getattr(error, "field", None), error.code)
        yield b"event: error\ndata: " + msgspec.json.encode(body) + b"\n\n"


def _json(body: dict[str, Any]) -> Response:
    """msgspec: base64 of ten pictures is megabytes, and the stdlib's encoder would hold up the event loop."""
    return Response(msgspec.json.encode(body), media_type="application/json")
