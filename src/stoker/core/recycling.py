"""Workers that are replaced before they do harm: after so many calls, or when they hold too much memory.

No call waits for it longer than it would otherwise: one that is to go is *outgoing*. It goes on taking calls until
there is another worker to take them, and is drained then. Where there is no room for two it is drained first.
"""

from __future__ import annotations

import math

from stoker.core import events as e
from stoker.core.draining import drain
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State

OUTGOING_SECONDS = 30.0  # after which a worker goes though fewer are left than could be used
AHEAD_SHARE = 10  # of `recycle_after`, one in so many calls may be spent on having a successor ready
EARLY_SECONDS = 60.0  # in which a new worker should not hold too much again: else the limit is below what all need
PAUSE_SECONDS = 5.0  # between two that go for their memory; twice as long for each that was early
PAUSE_MAX_SECONDS = 300.0


def measured(st: State, event: e.WorkersMeasured) -> None:
    """Take in what workers hold, in bytes."""
    for worker_id, memory in zip(event.workers, event.memory, strict=True):
        worker = st.workers.get(worker_id)
        limit = worker.pool.options.recycle_memory if worker is not None else None
        if worker is None or limit is None or memory < limit:
            continue
        worker.over_since = worker.over_since or st.now
        if not _may_go(st, worker):
            continue
        pool = worker.pool
        is_early = worker.over_since - worker.ready_since < EARLY_SECONDS
        pool.early_recycles = pool.early_recycles + 1 if is_early else 0
        pool.recycle_from = st.now + min(PAUSE_MAX_SECONDS, PAUSE_SECONDS * 2.0 ** min(pool.early_recycles, 30))
        _mark(st, worker, f"it holds {memory >> 20} MiB, and recycle_memory is {limit >> 20} MiB")


def _may_go(st: State, worker: Worker) -> bool:
    """Tell whether a worker that holds too much is replaced now: it has grown by what it did, and none before it has
    just been replaced."""
    return worker.state is WorkerState.READY and bool(worker.done) and st.now >= worker.pool.recycle_from


def _mark(st: State, worker: Worker, reason: str) -> None:
    if not worker.outgoing:
        worker.outgoing, worker.outgoing_since = reason, st.now
        st.touch(worker.pool)


def note_spent(st: State, pool: Pool, after: int) -> None:
    """Let go of workers that have run their number of calls; they end by themselves too, this frees their place. For
    one that is about to, another is started."""
    ahead = _ahead(pool, after)
    for worker in list(pool.workers.values()):
        if worker.idle and worker.done >= after:
            drain(st, worker, f"it has run {worker.done} attempts")
        elif worker.state is WorkerState.READY and ahead and after - worker.done - len(worker.leased) <= ahead:
            _mark(st, worker, f"it has run {worker.done} of {after} attempts")


def _ahead(pool: Pool, after: int) -> int:
    """Return the calls that a worker runs while another one starts."""
    if not pool.seconds or not pool.start_seconds:
        return min(1, after // AHEAD_SHARE)
    return min(math.ceil(pool.start_seconds / pool.seconds * pool.per_worker), after // AHEAD_SHARE)


def renew(st: State, pool: Pool, wanted: int) -> int:
    """Return how many workers to have beside those that go, and drain those that can be spared."""
    outgoing = [w for w in pool.workers.values() if w.outgoing and w.state is WorkerState.READY]
    if not outgoing:
        return wanted
    fresh = sum(1 for w in pool.workers.values() if w.state is WorkerState.READY and not w.outgoing)
    work = math.ceil((len(pool.queue) + pool.running) / pool.per_worker)
    enough = min(max(1, work), pool.options.max_workers or work or 1)
    for worker in sorted(outgoing, key=lambda w: w.outgoing_since):
        waited = st.now - worker.outgoing_since >= OUTGOING_SECONDS
        if not fresh or (fresh + len(outgoing) - 1 < enough and not waited):
            break
        outgoing.remove(worker)
        drain(st, worker, worker.outgoing)
    if outgoing:
        st.sweep_by(st.now + 1.0)
    return max(wanted, 1) if outgoing else wanted


def make_way(st: State, pool: Pool) -> bool:
    """Drain a worker that is to go where there is no room for the one that comes in its place."""
    for worker in pool.workers.values():
        if worker.outgoing and worker.state is WorkerState.READY:
            drain(st, worker, worker.outgoing)
            return True
    return False
