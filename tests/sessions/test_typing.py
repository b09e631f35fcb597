from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onestroke.errors import InvalidRequest
from onestroke.sessions.typing import TypingSession


def typed(*seqs: int) -> TypingSession:
    session = TypingSession()
    for seq in seqs:
        session.key(seq)
        session.submitted(seq)
    return session


def test_a_seq_that_does_not_rise_is_refused_by_name() -> None:
    session = typed(4)
    for seq in (4, 3):
        with pytest.raises(InvalidRequest) as refused:
            session.key(seq)
        assert refused.value.field == "seq"


def test_a_replaced_key_is_no_longer_pending() -> None:
    session = typed(1, 2)
    session.key(3)
    session.submitted(3, replaces=2)
    assert session.pending == [1, 3]


def test_an_older_picture_is_never_shown_after_a_newer_one() -> None:
    session = typed(1, 2)
    assert session.finished(2)
    assert not session.finished(1)


def test_a_failure_of_an_outdated_key_is_no_news() -> None:
    session = typed(1, 2)
    session.finished(2)
    assert not session.failed(1)


def test_cancel_gives_up_on_everything_up_to_its_seq() -> None:
    session = typed(1, 2)
    assert session.cancelled(2) == [1, 2]
    assert not session.finished(2)
    session.key(3)
    assert session.finished(3)


@given(st.permutations(range(8)))
def test_what_is_shown_only_ever_rises(order: list[int]) -> None:
    session = typed(*range(8))
    shown = [seq for seq in order if session.finished(seq)]
    assert shown == sorted(shown)
    assert shown[-1] == 7
