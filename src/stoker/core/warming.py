"""A version that is about to take over gets a worker before it gets calls, so that none of them waits for its start."""

from __future__ import annotations

from stoker.core import events as e
from stoker.core.pools import Pool, WorkerState
from stoker.core.state import State

_THERE = frozenset({WorkerState.READY, WorkerState.AWAY})


def warm_up(st: State, event: e.WarmUp) -> None:
    """Have a pool start a worker that no call asks for, and keep it until the time is over."""
    pool = st.pools.get(event.key)
    if pool is not None:
        pool.warm_until = event.until
        st.touch(pool)


def is_warm(pool: Pool) -> bool:
    """Tell whether a worker of it takes calls."""
    return any(worker.state in _THERE for worker in pool.workers.values())


def is_worth_waiting_for(pool: Pool) -> bool:
    """Tell whether a worker is on its way: not one that has failed to start, or that there is no room for."""
    return not is_warm(pool) and not pool.bad_starts and not pool.failed_trial and not pool.wanted_since
