"""Versions that are tried beside the current one: a canary, which answers some calls, or a shadow, which answers none.

One that cannot run is stopped by itself. What waits for a canary then is run by the current version, so that it costs
no call. A shadow stands behind everything else: it gets only room that nobody wants, and gives it back.
"""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import intake, settling
from stoker.core.calls import Call, Result
from stoker.core.draining import drain
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.types import CallState, ErrorInfo, Outcome

BARREN_MAX = 3  # workers in a row that ended without having answered a call: then the version cannot run
CANARY = "canary"
SHADOW = "shadow"
MIRRORED = ".shadow"  # ends the id of a call made for a shadow, after that of the real one
MIRRORING = "shadow-"  # begins the name of the client that makes them, before the app's


def is_mirrored(call: Call) -> bool:
    """Tell whether a call is a second one of a real one, made for a shadow."""
    return call.id.endswith(MIRRORED) and call.client.startswith(MIRRORING)


def refused(st: State, pool: Pool, error: ErrorInfo) -> bool:
    """A worker of a version on trial could not be started at all; tell whether that is dealt with."""
    if not pool.role or any(w.state in {WorkerState.READY, WorkerState.AWAY} for w in pool.workers.values()):
        return bool(pool.failed_trial)
    fail(st, pool, error.message)
    return True


def ended(st: State, worker: Worker, detail: str) -> bool:
    """A worker has ended by itself; tell whether its version has failed its trial by that."""
    pool = worker.pool
    if not pool.role:
        return False
    if worker.done or any(other.done for other in pool.workers.values()):
        pool.barren = 0
        return False
    pool.barren += 1
    if pool.barren >= BARREN_MAX:
        fail(st, pool, f"{pool.barren} workers in a row ended without having answered a call; the last one: {detail}")
    return bool(pool.failed_trial)


def fail(st: State, pool: Pool, why: str) -> None:
    """Start no more workers of it, and say why."""
    if not pool.failed_trial:
        pool.failed_trial = why or "it could not be started"
        st.emit(c.TellTrialFailed(pool.key, pool.failed_trial))


def hand_over(st: State, event: e.PoolReplaced) -> None:
    """A version has failed its trial: what waits for it is run by the current version, or fails where that cannot."""
    pool = st.pools.get(event.key)
    if pool is None:
        return
    pool.replaced_by = event.by
    move(st, pool)


def move(st: State, pool: Pool) -> None:
    """Put calls that were never begun, or are to be begun again, into the pool that stands in for theirs."""
    target = st.pools.get(pool.replaced_by)
    waiting = {CallState.QUEUED, CallState.BACKOFF, CallState.ACCEPTING}
    for call in [call for call in st.calls.values() if call.pool is pool and call.state in waiting]:
        if target is not None:
            _move_one(st, call, pool, target)
        elif call.state is CallState.QUEUED:
            error = ErrorInfo("StartupError", f"{pool.failed_trial}.", mro=["StartupError"])
            call.pool.failed += 1
            settling.settle(st, call, CallState.FAILED, Result(Outcome.ERROR, error=error))
    st.touch(pool)
    if target is not None:
        st.touch(target)


def _move_one(st: State, call: Call, pool: Pool, target: Pool) -> None:
    call.note(st.now, "moved", f"version {pool.spec.version} was stopped; it is run by version {target.spec.version}")
    was_queued = call.queued
    pool.queue.discard(call)
    if call.state is CallState.BACKOFF:
        pool.backoff, target.backoff = pool.backoff - 1, target.backoff + 1
    elif call.state is CallState.ACCEPTING:
        pool.accepting, target.accepting = pool.accepting - 1, target.accepting + 1
    if not call.detached:
        left = pool.clients.get(call.client, 0) - 1
        if left > 0:
            pool.clients[call.client] = left
        else:
            pool.clients.pop(call.client, None)
        target.clients[call.client] = target.clients.get(call.client, 0) + 1
    call.pool = target
    if was_queued:
        target.queue.push(call)


def give_way(st: State, pool: Pool) -> None:
    """A pool waits for room: every shadow gives up what it has, and what it runs is dropped."""
    if pool.role == SHADOW:
        return
    for worker in list(st.workers.values()):
        if worker.pool.role == SHADOW and worker.state in {WorkerState.READY, WorkerState.STARTING}:
            intake.cancel(st, e.CancelAsked(list(worker.leased), reason=f"{pool.spec.label} needs its place"))
            drain(st, worker, f"{pool.spec.label} needs its place")


def must_wait(st: State, pool: Pool) -> str:
    """Return why a shadow may not start a worker now; empty where it may, or is none."""
    if pool.role != SHADOW:
        return ""
    waits = next((other for other in st.pools.values() if other.role != SHADOW and other.wanted_since), None)
    return f"for {waits.spec.label}, which it stands behind" if waits is not None else ""
