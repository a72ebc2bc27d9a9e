"""What clients send to calls that run: in order, once, and no more at a time than there is room for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.core.feeds import WINDOW_BYTES, Feed, Reader
from stoker.types import InputEnd

FIRST = Reader(attempt=1, connection=1)


def test_nothing_is_handed_out_before_it_is_asked_for() -> None:
    feed = Feed()
    feed.add(b"one")
    assert feed.take() is None
    assert feed.ask(FIRST, had=0, upto=2)
    assert feed.take() == ([b"one"], InputEnd.OPEN)  # the last piece may go beyond the room
    feed.add(b"two")
    assert feed.take() is None
    assert feed.ask(FIRST, had=1, upto=10)
    feed.end(InputEnd.COMPLETE)
    assert feed.take() == ([b"two"], InputEnd.COMPLETE)
    assert feed.take() is None


def test_an_end_is_told_once_and_after_all_that_came_before_it() -> None:
    feed = Feed()
    feed.add(b"last words")
    feed.end(InputEnd.GONE)
    feed.end(InputEnd.COMPLETE)
    feed.add(b"too late")
    assert feed.ask(FIRST, had=0, upto=100)
    assert feed.take() == ([b"last words"], InputEnd.GONE)
    assert feed.take() is None


def test_another_attempt_has_all_of_it_or_nothing() -> None:
    feed = Feed()
    feed.add(b"one")
    assert feed.ask(FIRST, had=0, upto=0)
    assert feed.take() is None
    second = Reader(attempt=2, connection=2)
    assert feed.ask(second, had=0, upto=10)  # nothing has been handed out yet
    assert feed.take() == ([b"one"], InputEnd.OPEN)
    assert not feed.ask(Reader(attempt=3, connection=3), had=0, upto=10)


def test_an_attempt_goes_on_by_another_connection_unless_something_was_under_way() -> None:
    feed = Feed()
    feed.add(b"one")
    assert feed.ask(FIRST, had=0, upto=10)
    feed.take()
    assert feed.ask(Reader(attempt=1, connection=2), had=1, upto=20)
    feed.add(b"two")
    assert feed.take() == ([b"two"], InputEnd.OPEN)
    assert not feed.ask(Reader(attempt=1, connection=3), had=1, upto=20)


def test_an_end_is_told_again_on_another_connection() -> None:
    feed = Feed()
    feed.end(InputEnd.COMPLETE)
    assert feed.ask(FIRST, had=0, upto=10)
    assert feed.take() == ([], InputEnd.COMPLETE)
    assert feed.ask(Reader(attempt=1, connection=2), had=0, upto=10)
    assert feed.take() == ([], InputEnd.COMPLETE)


@given(st.lists(st.one_of(st.binary(max_size=400), st.integers(0, 300)), max_size=60))
def test_every_piece_comes_once_in_order_within_the_room(steps: list[bytes | int]) -> None:
    feed, sent, came, upto = Feed(), b"", b"", 0
    had = 0
    for step in steps:
        if isinstance(step, bytes):
            feed.add(step)
            sent += step
        else:
            upto = max(upto, len(came) + step)
            assert feed.ask(FIRST, had=had, upto=upto)
        found = feed.take()
        if found is not None:
            pieces, end = found
            assert end is InputEnd.OPEN
            assert len(came) + sum(map(len, pieces[:-1])) < upto
            came += b"".join(pieces)
            had += len(pieces)
        assert sent.startswith(came)
        assert feed.has_room == (len(sent) - len(came) < WINDOW_BYTES)
    feed.end(InputEnd.COMPLETE)
    assert feed.ask(FIRST, had=had, upto=1 << 30)
    found = feed.take()
    assert found is not None
    assert came + b"".join(found[0]) == sent and found[1] is InputEnd.COMPLETE
