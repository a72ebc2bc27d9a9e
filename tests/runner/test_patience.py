"""For how long batches are waited for, in simulated time: nobody waits for what does not come."""

from __future__ import annotations

import heapq
import random

import pytest

from stoker.runner.patience import PROBE_EVERY, Patience
from stoker.types import BatchSpec

WAIT = 0.005
SERVICE = 0.005
BACK = 0.001  # from a result to the same caller's next input


def simulate(
    *, callers: int = 0, rate: float = 0.0, batches: int = 400, service: float = SERVICE, seed: int = 1
) -> tuple[float, float, float]:
    """Return inputs a second, the mean size of a batch, and the mean wait that was spent on one.

    ``callers`` send their next input when they have their result; ``rate`` inputs a second come by themselves.
    """
    patience = Patience(BatchSpec(32, WAIT))
    drawn = random.Random(seed)
    arrivals = [drawn.random() * BACK for _ in range(callers)]
    next_open = drawn.expovariate(rate) if rate else float("inf")
    heapq.heapify(arrivals)
    now = done = waited = 0.0
    for _ in range(batches):
        held = 0
        until = None
        while True:
            while held < 32 and min(arrivals[0] if arrivals else float("inf"), next_open) <= now:
                if arrivals and arrivals[0] <= next_open:
                    heapq.heappop(arrivals)
                else:
                    next_open += drawn.expovariate(rate)
                held += 1
            following = min(arrivals[0] if arrivals else float("inf"), next_open)
            if not held:
                now = following
                continue
            if until is None:
                began, until = now, now + patience.seconds(held)
            if held >= patience.enough or now >= until:
                break
            now = min(until, following)
        waited += now - began
        patience.ran(held)
        now += service
        done += held
        if callers:
            for _ in range(held):
                heapq.heappush(arrivals, now + BACK * (0.5 + drawn.random()))
    return done / now, done / batches, waited / batches


def test_a_lone_caller_waits_for_nobody() -> None:
    each, size, waited = simulate(callers=1)
    assert size == 1.0 and waited < 1.5 * WAIT / PROBE_EVERY
    assert each > 0.95 / (SERVICE + BACK)


@pytest.mark.parametrize("callers", [20, 31])
def test_those_that_were_just_answered_are_waited_for_and_nobody_else(callers: int) -> None:
    each, size, waited = simulate(callers=callers)
    assert size > 0.9 * callers and waited < 2 * BACK
    assert each > 0.85 * callers / (SERVICE + 1.5 * BACK)


def test_many_callers_fill_each_batch() -> None:
    each, size, _ = simulate(callers=64)
    assert size > 31 and each > 0.97 * 32 / SERVICE


def test_what_comes_by_itself_is_gathered_without_waiting_for_all_of_the_time() -> None:
    _, size, waited = simulate(rate=1000)
    assert size > 5 and waited <= WAIT
    _, few, spent = simulate(rate=20)
    assert few < 2 and spent < WAIT / 2


def test_a_full_batch_waits_for_nothing_and_one_without_a_wait_neither() -> None:
    assert Patience(BatchSpec(4, WAIT)).seconds(4) == 0.0
    assert Patience(BatchSpec(4, 0.0)).seconds(1) == 0.0
    assert Patience(BatchSpec(4, WAIT)).seconds(1) == WAIT
