from __future__ import annotations

import inspect

from onestroke import errors
from onestroke.api.errors import STATUS, status_of
from onestroke.errors import (
    DeviceLost,
    GenerationFailed,
    InvalidRequest,
    ModelError,
    OnestrokeError,
    Overloaded,
    UnknownModel,
    from_wire,
    to_wire,
)


def kinds() -> list[type[OnestrokeError]]:
    return [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, OnestrokeError)
    ]


def test_every_error_stands_in_the_tree_of_the_docstring() -> None:
    for kind in kinds():
        assert kind.__name__ in (errors.__doc__ or "")


def test_every_error_has_a_code_of_its_own_and_a_place_on_the_wire() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(set(codes)) == len(codes)
    mapped = tuple(kind for kind, _, _ in STATUS if kind is not OnestrokeError)
    unmapped = {kind for kind in kinds() if not issubclass(kind, mapped)}
    unheard = {ModelError, DeviceLost}  # the one ends the server before it answers, the other the worker
    assert unmapped == {OnestrokeError, *unheard}
    assert status_of(UnknownModel("x", "model"))[0] == 404
    assert status_of(Overloaded("x"))[0] == 429


def test_errors_cross_the_process_boundary() -> None:
    back = from_wire(to_wire(InvalidRequest("too long", "prompt")))
    assert isinstance(back, InvalidRequest)
    assert (back.message, back.field) == ("too long", "prompt")


def test_the_unforeseen_is_a_failed_generation_that_names_its_type() -> None:
    back = from_wire(to_wire(ZeroDivisionError("division by zero")))
    assert isinstance(back, GenerationFailed)
    assert "ZeroDivisionError" in back.message
