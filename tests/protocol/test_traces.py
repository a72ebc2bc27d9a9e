"""What a `traceparent` says, and what of it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.protocol.traces import Trace, checked_trace, parse_trace

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_it_says_the_trace_the_span_and_whether_it_is_recorded() -> None:
    assert parse_trace(GIVEN) == Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
    assert parse_trace(GIVEN[:-2] + "00") == Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", False)
    assert str(parse_trace(GIVEN)) == GIVEN


def test_of_flags_that_are_not_known_only_the_first_counts() -> None:
    assert checked_trace(GIVEN[:-2] + "ff") == GIVEN


def test_what_a_later_version_adds_is_left_out() -> None:
    assert checked_trace("cc" + GIVEN[2:] + "-what.the-future-brings") == GIVEN
    assert checked_trace("cc" + GIVEN[2:]) == GIVEN


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "00",
        GIVEN.upper(),
        "ff" + GIVEN[2:],
        GIVEN + "-more",
        GIVEN + "-",
        "cc" + GIVEN[2:] + ".more",
        GIVEN + " ",
        GIVEN.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        GIVEN.replace("b7ad6b7169203331", "0" * 16),
        GIVEN.replace("-01", "-1"),
        "cc" + GIVEN[2:] + "-" + "x" * 1000,
        GIVEN + "\n",
    ],
)
def test_what_is_malformed_is_none(malformed: str) -> None:
    assert checked_trace(malformed) == ""


@given(st.text(alphabet="0123456789abcdef-\nﬀxyz", max_size=80))
def test_nothing_raises_and_what_is_taken_is_written_the_same(text: str) -> None:
    taken = checked_trace(text)
    assert taken == "" or (len(taken) == 55 and checked_trace(taken) == taken)
