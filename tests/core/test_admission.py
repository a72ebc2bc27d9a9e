"""Which calls are taken, and how long the others are told to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.admission import (
    MAP_BACKSTOP_CALLS,
    WAIT_SHARE,
    WINDOW_MAX,
    Load,
    expected_wait,
    room,
    too_late,
    window,
)

loads = st.builds(Load, st.integers(0, 10_000), st.integers(0, 100), st.none() | st.floats(1e-6, 1e4))


@pytest.mark.parametrize(("waiting", "free"), [(0, 10), (9, 1), (10, 0), (25, 0)])
def test_single_calls_are_taken_up_to_the_bound(waiting: int, free: int) -> None:
    assert room(waiting, max_pending=10, kind="call") == free
    assert room(waiting, max_pending=10, kind="stream") == free


def test_maps_are_held_back_by_their_windows_and_only_backed_by_a_bound() -> None:
    assert room(5000, max_pending=10, kind="map") == MAP_BACKSTOP_CALLS - 5000
    assert room(0, max_pending=MAP_BACKSTOP_CALLS, kind="map") == 2 * MAP_BACKSTOP_CALLS
    assert room(10 * MAP_BACKSTOP_CALLS, max_pending=10, kind="map") == 0


@given(loads)
def test_a_pool_without_samples_or_workers_expects_nothing(load: Load) -> None:
    wait = expected_wait(load)
    if load.seconds is None or not load.slots:
        assert wait is None
    else:
        assert wait is not None
        assert wait >= load.seconds


def test_the_wait_is_ones_turn_and_ones_own_time() -> None:
    assert expected_wait(Load(0, 4, 2.0)) == 2.0
    assert expected_wait(Load(8, 4, 2.0)) == 6.0
    assert expected_wait(Load(8, 4, 2.0, pace=3.0)) == 8.0  # between two runs something passes


@given(loads, st.floats(0.0, 1e5))
def test_a_call_is_refused_when_its_answer_would_be_late_or_nearly(load: Load, within: float) -> None:
    wait, now = expected_wait(load), 1000.0
    refused = too_late(load, deadline=now + within, now=now)
    assert too_late(load, deadline=None, now=now) is None
    if wait is None or wait <= WAIT_SHARE * within * (1 - 1e-9):
        assert refused is None
    elif wait > WAIT_SHARE * within * (1 + 1e-9):
        assert refused == wait


@given(st.integers(1, 1_000_000), st.integers(0, 1000))
def test_windows_are_fair_shares(max_pending: int, clients: int) -> None:
    size = window(max_pending, clients)
    assert 1 <= size <= WINDOW_MAX
    assert size * clients <= max(max_pending, clients)
    assert window(max_pending, clients + 1) <= size
