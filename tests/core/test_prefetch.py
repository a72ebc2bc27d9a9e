"""How far ahead a worker is leased: not at all, unless its runs are so short that fetching the next is worth saving."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.prefetch import DEPTH_MAX, FILL_SECONDS, SHORT_RUN_SECONDS, depth


@pytest.mark.parametrize("seconds", [None, SHORT_RUN_SECONDS * 1.01, 1.0, 3600.0])
def test_calls_that_are_not_known_to_be_short_are_leased_one_by_one(seconds: float | None) -> None:
    assert depth(seconds) == 1


def test_short_ones_fill_a_few_milliseconds_or_have_one_more() -> None:
    assert depth(SHORT_RUN_SECONDS) == 2
    assert depth(1e-4) == FILL_SECONDS / 1e-4
    assert depth(0.0) == depth(1e-9) == DEPTH_MAX


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_shorter_runs_are_leased_no_less_and_never_too_many(one: float, other: float) -> None:
    shorter, longer = sorted((one, other))
    assert 1 <= depth(longer) <= depth(shorter) <= DEPTH_MAX


@given(st.floats(0.0, SHORT_RUN_SECONDS))
def test_what_is_ahead_is_over_soon(seconds: float) -> None:
    assert depth(seconds) >= 2
    assert depth(seconds) * seconds <= max(FILL_SECONDS, 2 * seconds)
