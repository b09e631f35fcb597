from __future__ import annotations

import pytest

from onestroke.sessions.outbox import CONTROL_LIMIT, Outbound, Outbox, OutboxFull


def picture(seq: int) -> Outbound:
    return Outbound(seq, {"seq": seq}, b"x")


def drain(outbox: Outbox) -> list[object]:
    found = []
    while (message := outbox.take()) is not None:
        found.append(message)
    return found


def test_a_slow_reader_gets_the_newest_picture_and_hears_of_the_others() -> None:
    outbox = Outbox()
    for seq in (1, 2, 3):
        outbox.put_picture(picture(seq))
    assert drain(outbox) == [{"type": "superseded", "through": 2}, picture(3)]


def test_superseded_coalesces_to_the_highest_seq() -> None:
    outbox = Outbox()
    for seq in (3, 1, 2):
        outbox.put_superseded(seq)
    assert drain(outbox) == [{"type": "superseded", "through": 3}]


def test_seq_zero_can_be_superseded() -> None:
    outbox = Outbox()
    outbox.put_superseded(0)
    assert drain(outbox) == [{"type": "superseded", "through": 0}]


def test_only_the_newest_status_is_sent() -> None:
    outbox = Outbox()
    outbox.put_status({"fraction": 0.1})
    outbox.put_status({"fraction": 0.2})
    assert drain(outbox) == [{"fraction": 0.2}]


def test_control_messages_are_bounded() -> None:
    outbox = Outbox()
    for _ in range(CONTROL_LIMIT):
        outbox.put({"type": "pong"})
    with pytest.raises(OutboxFull):
        outbox.put({"type": "pong"})
