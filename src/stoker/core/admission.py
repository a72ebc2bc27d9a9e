"""Which calls are taken: a pool's queue is bounded, and what cannot be answered in time is refused at once."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_MAX = 4096  # calls of one map in flight: keeps many workers busy, and a client's memory flat
WINDOW_MIN = 16


@dataclass(frozen=True, slots=True)
class Load:
    """A pool as admission sees it: calls waiting, calls at once, and a call's measured seconds (None: no sample)."""

    waiting: int
    slots: int
    seconds: float | None


def expected_wait(load: Load) -> float | None:
    """Return the seconds until a call accepted now would be answered; None without samples."""
    if load.seconds is None or not load.slots:
        return None
    return load.seconds * (load.waiting / load.slots + 1)


def room(load: Load, *, max_pending: int, kind: str) -> int:
    """Return how many more calls are taken. Maps are held back by their window; the bound is a backstop for them."""
    bound = max_pending * 2 if kind == "map" else max_pending
    return max(0, bound - load.waiting)


def too_late(load: Load, *, deadline: float | None, now: float) -> float | None:
    """Return the expected wait if it is past the deadline, else None. A pool without samples admits."""
    wait = expected_wait(load)
    if deadline is None or wait is None or now + wait <= deadline:
        return None
    return wait


def window(max_pending: int, clients: int) -> int:
    """Return one client's fair share of the bound for its maps."""
    return max(WINDOW_MIN, min(WINDOW_MAX, max_pending // max(1, clients)))
