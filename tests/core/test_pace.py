"""How fast a pool gets through its queue, as those who wait in it see it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.pace import SAMPLE_SECONDS, Pace


def run(pace: Pace, *, every: float, count: int, at_once: int, slots: int) -> None:
    """End so many calls, a few at a time, while others wait."""
    for i in range(count):
        pace.ended(at_once, now=i * every, others_wait=True, slots=lambda: slots)


@given(
    st.floats(1e-4, 10.0),
    st.integers(1, 64),
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.just(32 * n))),
)
def test_it_is_the_time_from_one_end_to_the_next(every: float, at_once: int, slots: tuple[int, int]) -> None:
    pace = Pace()
    run(pace, every=every, count=500, at_once=at_once, slots=slots[1])
    assert pace.seconds == pytest.approx(every * slots[1] / at_once, rel=1e-3)


def test_what_ends_while_nobody_waits_says_nothing() -> None:
    pace = Pace()
    for i in range(100):
        pace.ended(1, now=float(i), others_wait=False, slots=lambda: 1)
    assert pace.seconds is None
    pace.ended(1, now=200.0, others_wait=True, slots=lambda: 1)
    assert pace.seconds is None  # since when there is a queue is known only now
    pace.ended(1, now=203.0, others_wait=False, slots=lambda: 1)
    assert pace.seconds == 3.0


def test_a_machine_that_gets_slower_shows_within_a_few_samples() -> None:
    pace = Pace()
    run(pace, every=0.005, count=1000, at_once=1, slots=1)
    for i in range(200):
        pace.ended(1, now=5.0 + i * 0.01, others_wait=True, slots=lambda: 1)
    assert pace.seconds == pytest.approx(0.01, rel=0.05)
    assert SAMPLE_SECONDS < 0.1
