"""How many workers: enough, none that would come too late, and never fewer for more work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.autoscaler import DEFAULT_START_SECONDS, Demand, desired_workers
from stoker.types import OptionsSpec


def wanted(queued: int, *, options: OptionsSpec | None = None, **demand: Any) -> int:
    return desired_workers(
        Demand(queued, **{"running": 0, "workers": 0, "starting": 0, **demand}), options or OptionsSpec()
    )


times = st.none() | st.floats(1e-6, 1e4)
demands = st.builds(
    Demand,
    queued=st.integers(0, 10_000),
    running=st.integers(0, 100),
    workers=st.integers(0, 50),
    starting=st.integers(0, 50),
    seconds=times,
    start_seconds=times,
    oldest=st.floats(0.0, 1e4),
)


@st.composite
def options(draw: st.DrawFn) -> OptionsSpec:
    least = draw(st.integers(0, 5))
    most = draw(st.none() | st.integers(max(least, 1), 60))
    return OptionsSpec(
        min_workers=least,
        max_workers=most,
        buffer_workers=draw(st.integers(0, 3)),
        concurrency=draw(st.sampled_from([1, 1, 4, 100])),
    )


@given(demands, options())
def test_the_stated_bounds_hold(demand: Demand, spec: OptionsSpec) -> None:
    found = desired_workers(demand, spec)
    assert found >= spec.min_workers
    assert spec.max_workers is None or found <= spec.max_workers
    useful = -(-(demand.queued + demand.running) // spec.concurrency)
    assert found <= max(useful + spec.buffer_workers, spec.min_workers)


@given(demands, options())
def test_what_waits_gets_at_least_one_worker(demand: Demand, spec: OptionsSpec) -> None:
    if demand.queued:
        assert desired_workers(demand, spec) >= 1


@given(demands, options(), st.integers(0, 1000))
def test_more_work_never_wants_fewer_workers(demand: Demand, spec: OptionsSpec, more: int) -> None:
    fuller = replace(demand, queued=demand.queued + more)
    assert desired_workers(fuller, spec) >= desired_workers(demand, spec)


@given(demands, options(), st.floats(1.0, 1000.0))
def test_longer_calls_never_want_fewer_workers(demand: Demand, spec: OptionsSpec, factor: float) -> None:
    if demand.seconds is not None:
        slower = replace(demand, seconds=demand.seconds * factor)
        assert desired_workers(slower, spec) >= desired_workers(demand, spec)


@given(demands, options(), st.floats(1.0, 1000.0))
def test_longer_starts_never_want_more_workers(demand: Demand, spec: OptionsSpec, factor: float) -> None:
    slower = replace(demand, start_seconds=(demand.start_seconds or DEFAULT_START_SECONDS) * factor)
    assert desired_workers(slower, spec) <= desired_workers(demand, spec)


@given(demands, options())
def test_what_was_wanted_is_still_wanted_once_it_is_starting(demand: Demand, spec: OptionsSpec) -> None:
    """Else each look at the same queue would order more, or regret what the last one ordered."""
    demand = replace(demand, running=min(demand.running, demand.workers * spec.concurrency))
    first = desired_workers(demand, spec)
    have = demand.workers + demand.starting
    if first > have:
        assert desired_workers(replace(demand, starting=demand.starting + first - have), spec) == first


def test_an_idle_function_needs_none() -> None:
    assert wanted(0) == 0
    assert wanted(0, options=OptionsSpec(min_workers=2)) == 2
    assert wanted(0, options=OptionsSpec(buffer_workers=2)) == 0


@pytest.mark.parametrize(("queued", "concurrency", "found"), [(1, 1, 1), (7, 1, 7), (7, 4, 2), (8, 4, 2), (9, 4, 3)])
def test_without_measurements_every_waiting_call_is_worth_a_worker(queued: int, concurrency: int, found: int) -> None:
    assert wanted(queued, options=OptionsSpec(concurrency=concurrency)) == found


def test_a_worker_that_would_come_too_late_is_not_started() -> None:
    quick: dict[str, Any] = {"workers": 1, "running": 1, "seconds": 0.001, "start_seconds": 1.0}
    assert wanted(100, **quick) == 1
    assert wanted(2000, **quick) == 3


def test_a_run_that_takes_longer_than_it_used_to_counts_as_it_is() -> None:
    quick: dict[str, Any] = {"workers": 1, "running": 1, "seconds": 0.001, "start_seconds": 0.5}
    assert wanted(3, **quick) == 1
    assert wanted(3, **quick, oldest=2.0) == 4


def test_spare_workers_are_kept_while_there_is_work() -> None:
    spec = OptionsSpec(buffer_workers=2, max_workers=4)
    assert wanted(1, options=spec) == 3
    assert wanted(5, options=spec) == 4
    assert wanted(0, running=1, workers=1, options=spec) == 3


def test_spare_workers_come_on_top_once_not_with_each_look() -> None:
    spec = OptionsSpec(buffer_workers=1)
    queue: dict[str, Any] = {"seconds": 0.01, "start_seconds": 0.1}
    assert wanted(20, **queue, options=spec) == 3
    assert wanted(20, **queue, starting=3, options=spec) == 3
