"""The pictures that a session has sent once, to type over: few, and bounded in bytes."""

from __future__ import annotations

from onestroke.errors import InvalidRequest

MAX_PICTURES = 4
MAX_BYTES = 4 << 20
"""Of all of them together."""


class Shelf:
    """Pictures by the names that the client gave them."""

    def __init__(self) -> None:
        self._pictures: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        """Keep a picture, in place of the one of that name. Raises InvalidRequest where there is no room."""
        others = [each for key, each in self._pictures.items() if key != name]
        if len(others) >= MAX_PICTURES:
            raise InvalidRequest(f"{MAX_PICTURES} pictures are kept already: forget one first", "id")
        if sum(map(len, others)) + len(data) > MAX_BYTES:
            raise InvalidRequest(
                f"at most {MAX_BYTES:,} bytes of pictures are kept: scale this one down, or forget another",
                "id",
            )
        self._pictures[name] = data

    def get(self, name: str, field: str) -> bytes:
        """Raises InvalidRequest naming the `field` that asks for it."""
        if name not in self._pictures:
            raise InvalidRequest(f"{field}: no picture {name!r} was sent on this connection", field)
        return self._pictures[name]

    def forget(self, name: str) -> None:
        self._pictures.pop(name, None)
