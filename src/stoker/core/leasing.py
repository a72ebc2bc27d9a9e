"""Which worker gets which calls, and when they are taken back."""

from __future__ import annotations

from stoker.core import channels, gangs, settling, withheld
from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Call
from stoker.core.draining import leased_ahead
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.prefetch import STUCK_SECONDS, depth
from stoker.core.state import State
from stoker.types import CallState


def lease(st: State, pool: Pool) -> None:
    """Hand queued calls to workers with room: evenly, the emptiest first."""
    if pool.options.gang is not None:
        gangs.lease(st, pool)
        return
    if not len(pool.queue) or st.recovering_until is not None:
        return
    limit = _limit(pool)
    if len(pool.workers) == 1:
        (worker,) = pool.workers.values()
        if worker.channel is not None:
            channels.close(st, worker)
        elif worker.state is WorkerState.READY:
            # Of batches the next one waits beside the one that runs, where there is no other worker for it.
            most = 2 * limit if _waits_beside(pool) else limit
            _lease_to(st, pool, worker, most - worker.load - len(worker.unknown))
        return
    _lease_to_all(st, pool, limit)
    if len(pool.queue) and _waits_beside(pool) and not _is_growing(pool):
        _lease_to_all(st, pool, 2 * limit)
    if len(pool.queue):
        channels.reclaim(st, pool)


def _waits_beside(pool: Pool) -> bool:
    """Tell whether a batch may wait in a worker beside the one that runs there.

    Where several run at once there is always something to go on with, and it would not be known when one that waits
    has begun.
    """
    return pool.options.batch is not None and pool.options.concurrency == 1 and not _gives_one_batch(pool)


def _gives_one_batch(pool: Pool) -> bool:
    """Tell whether a worker is given a batch only once it has none: where calls must not run again, those that it holds
    have to be those that it has begun."""
    options = pool.options
    return options.batch is not None and not options.lost_retries and options.concurrency == 1


def _is_growing(pool: Pool) -> bool:
    """Tell whether a worker is on its way: what waits is for it, rather than for those that have enough."""
    return any(worker.state is WorkerState.STARTING for worker in pool.workers.values())


def _lease_to_all(st: State, pool: Pool, limit: int) -> None:
    open_workers = [w for w in pool.workers.values() if _takes_leases(w) and w.load < limit]
    if len(open_workers) > 1:
        open_workers.sort(key=lambda w: w.load)
    for i, worker in enumerate(open_workers):
        share = -(-pool.waiting_units // (len(open_workers) - i))
        room = limit - worker.load - len(worker.unknown)
        _lease_to(st, pool, worker, room, share=share)
        if not len(pool.queue):
            break


def _is_stuck(st: State, worker: Worker) -> bool:
    return st.now - worker.head_since >= STUCK_SECONDS


def _takes_leases(worker: Worker) -> bool:
    return worker.state is WorkerState.READY and worker.channel is None


def _lease_to(st: State, pool: Pool, worker: Worker, room: int, *, share: int | None = None) -> None:
    if len(worker.leased) >= pool.per_worker and pool.options.batch is None and _is_stuck(st, worker):
        return  # what it runs is no short run: what was leased ahead would only be taken back again
    if worker.leased and _gives_one_batch(pool):
        return
    count = room if share is None else min(room, share)
    calls = _take(st, pool, worker, count) if pool.mixture is None else _take_mixed(st, pool, worker, room, count)
    if calls:
        withheld.send(st, worker, calls)
        if len(worker.leased) > 1:
            st.sweep_by(st.now + STUCK_SECONDS)


def lease_at_once(st: State, pool: Pool, call: Call) -> bool:
    """Hand a call that has just come in to an idle worker, if there is one and nobody is before it in the queue."""
    if len(pool.queue) or st.recovering_until is not None or pool.gangs:
        return False
    for worker in pool.workers.values():
        if worker.idle and worker.done != pool.options.recycle_after:
            worker.head_since = st.now
            _give(st, worker, call)
            st.emit(c.LeaseCalls(worker.id, (call,)))
            return True
    return False


def _give(st: State, worker: Worker, call: Call) -> None:
    call.state = CallState.LEASED
    call.attempt += 1
    call.worker = worker
    call.leased_at = st.now
    worker.leased[call.id] = call


def _limit(pool: Pool) -> int:
    return pool.per_worker if pool.per_worker > 1 else depth(pool.seconds)


def _take(st: State, pool: Pool, worker: Worker, count: int) -> list[Call]:
    now = st.now
    calls: list[Call] = []
    leased = worker.leased
    recycle = pool.options.recycle_after
    if recycle is not None:
        count = min(count, recycle - worker.done - len(leased))
    while len(calls) < count:
        call = pool.queue.pop()
        if call is None:
            break
        if call.deadline is not None and _is_late(pool, call, now):
            settling.expire(st, call)
            continue
        if not leased:
            worker.head_since = now
        _give(st, worker, call)
        calls.append(call)
    return calls


def _take_mixed(st: State, pool: Pool, worker: Worker, room: int, share: int) -> list[Call]:
    """Take calls that do not all take up the same, until they take up the share. One for which there is no room is put
    back: it is the next for whoever has room, and nobody goes before it."""
    assert pool.mixture is not None
    calls: list[Call] = []
    used = 0
    while used < share and (call := next(iter(_take(st, pool, worker, 1)), None)) is not None:
        units = pool.mixture.units(call)
        if used + units > room:
            _take_back(worker, call)
            break
        if _gives_one_batch(pool) and len(pool.mixture.begun(worker.leased.values())) < len(worker.leased):
            _take_back(worker, call)  # it would wait for the others
            break
        used += units
        calls.append(call)
    return calls


def _take_back(worker: Worker, call: Call) -> None:
    """Undo `_give`: nobody has been told."""
    del worker.leased[call.id]
    call.state = CallState.QUEUED
    call.attempt -= 1
    call.worker = None
    call.pool.queue.push_front(call)


def _is_late(pool: Pool, call: Call, now: float) -> bool:
    """Tell whether a call is past its deadline, or sure to be while others wait that may yet make theirs."""
    assert call.deadline is not None
    if now >= call.deadline:
        return True
    return len(pool.queue) > 0 and pool.quickest is not None and now + pool.quickest >= call.deadline


def revoke_stuck(st: State, worker: Worker) -> None:
    """Take back what waits behind a run that turned out not to be short."""
    if worker.revoking or len(worker.leased) < 2:
        return
    ahead = leased_ahead(worker)
    if not ahead or (worker.pool.options.batch is not None and not any(w.idle for w in worker.pool.workers.values())):
        return  # a batch that waits beside a long one may as well wait there, unless another worker could run it
    if st.now - worker.head_since < STUCK_SECONDS or worker.state is WorkerState.AWAY:
        return
    worker.revoking = True
    waiting = [call for call in ahead if call.id not in worker.withheld]
    st.emit(c.RevokeLeases(worker.id, [call.id for call in waiting], [call.attempt for call in waiting]))


def revoked(st: State, event: e.LeasesRevoked) -> None:
    """Queue again what a worker gave back: it was never started, so nothing is counted."""
    worker = st.workers.get(event.worker)
    if worker is None:
        return
    worker.revoking = False
    returned = []
    for call_id, attempt in zip(event.ids, event.attempts, strict=True):
        call = worker.leased.get(call_id)
        if call is None or call.attempt != attempt:
            continue
        del worker.leased[call_id]
        if call.state is CallState.LEASED:
            returned.append(call)
    for call in reversed(returned):
        settling.requeue(st, call)
    settling.after_lease_ended(st, worker)
