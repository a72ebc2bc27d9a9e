"""``strategy="recreate"``: of an app's versions only one has workers, so that only one copy of a model is ever loaded.

An older version goes first, as it gets no new calls: what it has accepted it runs to the end, and then ends. Meanwhile
the calls of the newer one wait in its queue. Calls of the older one that come late (a server was restarted) have the
newer one's workers end after what they run, and start again afterwards. What somebody has made of an older version by
other options is a pool of its own, which may get calls for ever: it counts for nothing here.
"""

from __future__ import annotations

from stoker.core.draining import drain
from stoker.core.pools import Pool, WorkerState
from stoker.core.state import State


def must_wait(st: State, pool: Pool) -> str:
    """Return what a pool waits for before it may start workers; empty where it may."""
    if pool.spec.run_id:
        return ""
    for other in st.pools.values():
        if other.spec.app != pool.spec.app or other.spec.run_id or other.spec.version == pool.spec.version:
            continue
        is_older = other.retired and other.spec.version < pool.spec.version
        if pool.is_alone and is_older and (other.workers or other.waiting_calls):
            return f"for version {other.spec.version} of {other.spec.app} to end (strategy=recreate)"
        is_newer = other.is_alone and other.spec.version > pool.spec.version
        if pool.retired and is_newer and other.workers and pool.waiting_calls:
            _let_end(st, other, pool)
            return f"for version {other.spec.version} of {other.spec.app} to let it go first (strategy=recreate)"
    return ""


def _let_end(st: State, newer: Pool, older: Pool) -> None:
    for worker in list(newer.workers.values()):
        if worker.state in {WorkerState.READY, WorkerState.STARTING}:
            drain(st, worker, f"version {older.spec.version} has calls left, and one version runs at a time")
