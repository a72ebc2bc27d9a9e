"""Which calls are taken: a pool's queue is bounded, and what cannot be answered in time is refused at once."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_MAX = 4096  # calls of one map in flight: keeps many workers busy, and a client's memory flat
WAIT_SHARE = 0.75  # of the time to a deadline that waiting may take: it is an estimate, and the answer has a way to go
MAP_BACKSTOP_CALLS = 100_000  # maps of many clients that have not heard of their smaller windows yet


@dataclass(frozen=True, slots=True)
class Load:
    """A pool as admission sees it: calls waiting, calls at once, and a call's measured seconds (None: no sample).

    ``pace``: the seconds that a call takes up a slot while others wait; None where there was no queue yet.
    ``quickest``: those of the quickest calls lately, where that is known.
    """

    waiting: int
    slots: int
    seconds: float | None
    pace: float | None = None
    quickest: float | None = None


def expected_wait(load: Load) -> float | None:
    """Return the seconds until a call accepted now would be answered; None without samples.

    Its turn comes as fast as calls go on the average; what it takes itself may be as little as the quickest take. A
    class has quick methods and slow ones, a web app such routes: those are not to be refused for the time of these.
    """
    if load.seconds is None or not load.slots:
        return None
    pace = load.seconds if load.pace is None else load.pace
    own = load.seconds if load.quickest is None else load.quickest
    return own + pace * load.waiting / load.slots


def room(waiting: int, *, max_pending: int, kind: str) -> int:
    """Return how many more calls are taken. Maps are held back by their window; this is only a backstop for them."""
    bound = max(max_pending * 2, MAP_BACKSTOP_CALLS) if kind == "map" else max_pending
    return max(0, bound - waiting)


def too_late(load: Load, *, deadline: float | None, now: float) -> float | None:
    """Return the expected wait if it is past the deadline, or so close to it that an answer would hardly make it.

    None where it is not. A pool without samples admits.
    """
    wait = expected_wait(load)
    if deadline is None or wait is None or wait <= WAIT_SHARE * (deadline - now):
        return None
    return wait


def window(max_pending: int, clients: int) -> int:
    """Return one client's fair share of the bound for its maps."""
    return max(1, min(WINDOW_MAX, max_pending // max(1, clients)))
