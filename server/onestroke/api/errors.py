"""The one table from Onestroke's errors to the wire, and the handlers that use it.

Every HTTP error is OpenAI's envelope: {"error": {"message", "type", "param", "code"}}, code a string or null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from onestroke.errors import (
    Cancelled,
    DeadlineExceeded,
    GenerationFailed,
    InvalidRequest,
    OnestrokeError,
    Overloaded,
    Unavailable,
    UnknownModel,
    WorkerDied,
)

log = structlog.get_logger(__name__)

STATUS: tuple[tuple[type[OnestrokeError], int, str], ...] = (
    (UnknownModel, 404, "invalid_request_error"),
    (InvalidRequest, 400, "invalid_request_error"),
    (Overloaded, 429, "rate_limit_error"),
    (Unavailable, 503, "server_error"),
    (WorkerDied, 503, "server_error"),
    (DeadlineExceeded, 504, "server_error"),
    (Cancelled, 499, "client_closed_request"),
    (GenerationFailed, 500, "server_error"),
    (OnestrokeError, 500, "server_error"),
)


def status_of(error: OnestrokeError) -> tuple[int, str]:
    """(HTTP status, OpenAI error type); the first kind in the table that fits."""
    return next((status, kind) for cls, status, kind in STATUS if isinstance(error, cls))


def envelope(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: OnestrokeError) -> JSONResponse:
    status, kind = status_of(error)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
        headers["retry-after-ms"] = str(round(error.retry_after * 1000))
    body = envelope(error.message, kind, getattr(error, "field", None), error.code)
    return JSONResponse(body, status, headers)


def first_problem(problems: Sequence[Any]) -> InvalidRequest:
    """pydantic's first complaint as an InvalidRequest that names the field and the cure."""
    problem = problems[0]
    path = [str(part) for part in problem["loc"] if part not in ("body", "query")]
    field = ".".join(path) or None
    match problem["type"]:
        case "extra_forbidden":
            message = f"unknown field {field!r}: it is not supported here; leave it out"
        case "missing":
            message = f"{field} is required" if field else "a JSON body is required"
        case "json_invalid":
            message, field = f"the body is not valid JSON: {problem['ctx']['error']}", None
        case _:
            reason = problem["msg"].removeprefix("Value error, ")
            message = f"{field}: {reason}" if field else reason
    return InvalidRequest(message, field)


def install(app: FastAPI) -> None:
    """Register the handlers; nothing leaves the server in FastAPI's own `detail` shape."""

    @app.exception_handler(OnestrokeError)
    async def _known(_: Request, error: OnestrokeError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(first_problem(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no such route: {request.method} {request.url.path}"
        kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
        body = envelope(message, kind, None, message.lower().replace(" ", "_") if message.isascii() else None)
        if error.status_code == 404:
            body["error"]["code"] = "not_found"
        return JSONResponse(body, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
        log.exception("unforeseen error", exc_info=error)
        return JSONResponse(envelope("internal error", "server_error", None, "internal_error"), 500)
