"""A session keeps few pictures, and no more bytes than there is room for."""

from __future__ import annotations

import pytest

from onestroke.errors import InvalidRequest
from onestroke.sessions.shelf import MAX_BYTES, MAX_PICTURES, Shelf


def test_a_picture_is_had_by_its_name_until_it_is_forgotten() -> None:
    shelf = Shelf()
    shelf.put("a", b"one")
    shelf.put("a", b"two")
    assert shelf.get("a", "image") == b"two"
    shelf.forget("a")
    shelf.forget("a")
    with pytest.raises(InvalidRequest, match="no picture 'a'") as refused:
        shelf.get("a", "control.image")
    assert refused.value.field == "control.image"


def test_there_is_room_for_a_few() -> None:
    shelf = Shelf()
    for name in range(MAX_PICTURES):
        shelf.put(str(name), b"x")
    with pytest.raises(InvalidRequest, match="forget one first"):
        shelf.put("another", b"x")
    shelf.put("0", b"in place of the first")


def test_bytes_are_counted_over_all_of_them_but_the_one_that_is_replaced() -> None:
    shelf = Shelf()
    shelf.put("a", bytes(MAX_BYTES - 10))
    shelf.put("a", bytes(MAX_BYTES - 5))
    with pytest.raises(InvalidRequest, match="scale this one down"):
        shelf.put("b", bytes(6))
    shelf.put("b", bytes(5))
