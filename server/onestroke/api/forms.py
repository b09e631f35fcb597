"""Multipart forms: fields and files of a bounded number and size, each once."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from onestroke.errors import InvalidRequest

MAX_FIELDS, MAX_FIELD_BYTES = 40, 1 << 16
NESTED = re.compile(r"(\w+)\[(\w+)\]")
"""How clients, OpenAI's SDK among them, write the field of an object in a form."""


async def read_form(request: Request, files: Collection[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
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
    return _nested(fields), found


def _nested(fields: dict[str, str]) -> dict[str, Any]:
    """NAME[KEY] as KEY of the object NAME."""
    made: dict[str, Any] = {name: value for name, value in fields.items() if not NESTED.fullmatch(name)}
    for name, value in fields.items():
        if inner := NESTED.fullmatch(name):
            if isinstance(made.setdefault(inner[1], {}), str):
                raise InvalidRequest(f"{inner[1]} was given twice: one is taken", inner[1])
            made[inner[1]][inner[2]] = value
    return made
