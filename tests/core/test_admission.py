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
from stoker.core.calls import Result
from stoker.types import Outcome
from tests.core.world import World, spec

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


def test_ones_own_time_may_be_as_little_as_that_of_the_quickest() -> None:
    assert expected_wait(Load(0, 4, 2.0, quickest=0.003)) == 0.003
    assert expected_wait(Load(8, 4, 2.0, quickest=0.003)) == 4.003


def test_one_slow_call_has_no_quick_one_refused() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    for n, seconds in enumerate([0.003, 10.0, 10.0]):
        world.submit([f"a{n}"], key=key)
        world.connect_all()
        world.finish_first(Result(Outcome.VALUE, b"", None, seconds))
    world.submit(["quick"], key=key, deadline=world.now + 0.5)
    assert "quick" not in world.results, "nobody waits: it runs"
    world.finish_first(Result(Outcome.VALUE, b"", None, 0.003))
    assert [result.outcome for _, result in world.results["quick"]] == [Outcome.VALUE]


def test_where_all_are_slow_one_that_would_be_late_is_refused() -> None:
    world = World(cpus=1)
    key = world.declare(spec())
    for n, seconds in enumerate([0.003] + 40 * [2.0]):
        world.submit([f"a{n}"], key=key)
        world.connect_all()
        world.finish_first(Result(Outcome.VALUE, b"", None, seconds))
    world.submit(["late"], key=key, deadline=world.now + 0.5)
    assert "could answer in about" in world.refused["late"].message


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
