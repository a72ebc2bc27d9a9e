"""Load while processes are killed under it: calls of every kind, until enough were killed.

A busy machine starts them again more slowly, and there is not always one to kill: there some are enough.
"""

from __future__ import annotations

import time

import stoker
from tests.faults import work
from tests.faults.running import Chaos


def map_under(chaos: Chaos, *, kills: int, seconds: float) -> None:
    """Map until so many processes were killed, or the time is over; what is lost or out of order fails."""
    done, give_up = 0, time.monotonic() + seconds
    while chaos.total < kills and time.monotonic() < give_up:
        inputs = range(done, done + 300)
        assert list(work.square.map(inputs)) == [x * x for x in inputs]
        done += 300
    chaos.stop()
    assert work.square.remote(-3) == 9
    _report(chaos, done, kills)


def call_under(chaos: Chaos, *, kills: int, seconds: float) -> None:
    """The same with one call after another."""
    done, give_up = 0, time.monotonic() + seconds
    while chaos.total < kills and time.monotonic() < give_up:
        assert work.quick.remote(done) == done * done
        done += 1
    chaos.stop()
    assert work.quick.remote(-3) == 9
    _report(chaos, done, kills)


def spawn_under(chaos: Chaos, *, kills: int, seconds: float) -> dict[int, stoker.Call[int]]:
    """The same with spawned calls; return them, by their argument."""
    calls: dict[int, stoker.Call[int]] = {}
    give_up = time.monotonic() + seconds
    while chaos.total < kills and time.monotonic() < give_up:
        first = len(calls)
        calls.update(zip(range(first, first + 60), work.square.spawn_map(range(first, first + 60)), strict=True))
        calls[len(calls)] = work.square.spawn(len(calls))
        assert calls[first].result(timeout=60) == first * first
    chaos.stop()
    for x, call in calls.items():
        assert call.result(timeout=90) == x * x
    _report(chaos, len(calls), kills)
    return calls


def _report(chaos: Chaos, calls: int, kills: int) -> None:
    print(f"{calls} calls, killed: {dict(chaos.killed)}")
    assert chaos.total >= kills // 3
