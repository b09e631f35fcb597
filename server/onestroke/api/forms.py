"""Multipart forms: fields and files of a bounded number and size, each once."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from onestroke.errors import InvalidRequest

MAX_FIELDS, MAX_FIELD_BYTES = 40, 1 << 16


async def read_form(request: Request, files: Collection[str]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields and files by name; `files` are those that may be, alone or as NAME[]. Raises InvalidRequest."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise InvalidRequest("the body must be a multipart form: Content-Type: multipart/form-data")
    try:
        form = await request.form(
            max_files=len(files) + 1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
    except HTTPException as error:
        raise InvalidRequest(f"the form cannot be read: {error.detail}") from error
    fields: dict[str, str] = {}
    found: dict[str, bytes] = {}
    try:
        for given, value in form.multi_items():
            name = given.removesuffix("[]")
            if name in fields or name in found:
                raise InvalidRequest(f"{name} was given twice: one is taken", name)
            if isinstance(value, UploadFile):
                if name not in files:
                    raise InvalidRequest(f"{name} is not to be a file", name)
                found[name] = await value.read()
            elif name in files:
                raise InvalidRequest(f"{name} must be a file, not a field of text", name)
            else:
                fields[name] = value
    finally:
        await form.close()
    return fields, found
