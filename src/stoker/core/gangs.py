"""Gangs of a pool: started all or none, given calls, let go whole. What becomes of an attempt: `gang_attempts`."""

from __future__ import annotations

from dataclasses import replace

from stoker.core import commands as c
from stoker.core import crash_loops, gang_attempts, gang_recovery, settling
from stoker.core import events as e
from stoker.core.calls import Call
from stoker.core.placement import Node, place_gang
from stoker.core.pools import Gang, GangPhase, Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.types import OptionsSpec


def in_gangs(options: OptionsSpec) -> OptionsSpec:
    """Return the options with whole gangs where workers are counted."""
    if options.gang is None:
        return options
    size = options.gang.most
    most = options.max_workers
    return replace(
        options,
        min_workers=options.min_workers // size,
        max_workers=None if most is None else most // size,
        buffer_workers=options.buffer_workers // size,
    )


def start(st: State, pool: Pool) -> bool:
    """Start a gang, the largest that there is room for; false where there is none."""
    spec = pool.options.gang
    if spec is None:
        return False
    nodes = place_gang(st.nodes.values(), pool.needs, least=spec.least, most=spec.most)
    if nodes:
        st.worker_seq += 1
        gang = Gang(f"{st.prefix}{st.worker_seq}", pool)
        pool.gangs[gang.id] = gang
        _start_ranks(st, gang, nodes)
    return bool(nodes)


def _start_ranks(st: State, gang: Gang, nodes: list[Node]) -> None:
    orders, pool = [], gang.pool
    gang.phase = GangPhase.STARTING
    for node in nodes:
        st.worker_seq += 1
        worker = Worker(f"{st.prefix}{st.worker_seq}", pool, node=node.id, capacity=pool.needs, now=st.now)
        worker.gang = gang
        gang.workers.append(worker)
        st.workers[worker.id] = pool.workers[worker.id] = worker
        node.held[worker.id] = worker.capacity
        orders.append(c.StartWorker(worker.id, pool.key, pool.spec, node.id, worker.capacity))
    st.emit(c.StartGang(orders))


def lease(st: State, pool: Pool) -> None:
    """Do what is due of the gangs' attempts, and give free gangs the calls that wait."""
    for gang in list(pool.gangs.values()):
        gang_attempts.look(st, gang)
    if st.recovering_until is not None:
        return
    for gang in list(pool.gangs.values()):
        if not len(pool.queue):
            return
        if gang.is_free and not _grow(st, gang):
            call = _next(st, pool)
            if call is not None:
                gang_attempts.begin(st, gang, call)


def _grow(st: State, gang: Gang) -> bool:
    """Have ranks join for which there was no room before, or whose workers were lost; true if some are on their way."""
    spec = gang.pool.options.gang
    if spec is None or len(gang.workers) >= spec.most or st.now < gang.pool.start_after:
        return False
    nodes = place_gang(st.nodes.values(), gang.pool.needs, least=1, most=spec.most - len(gang.workers))
    if nodes:
        _start_ranks(st, gang, nodes)
    return bool(nodes)


def _next(st: State, pool: Pool) -> Call | None:
    while True:
        call = pool.queue.pop()
        if call is None or call.deadline is None or st.now < call.deadline:
            return call
        settling.expire(st, call)


def connected(st: State, worker: Worker, event: e.WorkerConnected) -> None:
    """A worker of a gang pool is connected, for the first time or again."""
    gang = worker.gang
    if gang is None or gang.claim is not None:
        gang_recovery.returned(st, worker, dict(event.held), event.seat)
    else:
        gang_attempts.reconnected(st, worker, gang, dict(event.held))
        _complete(gang)


def _complete(gang: Gang) -> None:
    if gang.phase is GangPhase.STARTING and all(w.state is not WorkerState.STARTING for w in gang.workers):
        gang.phase = GangPhase.IDLE


def refused(st: State, worker: Worker, gang: Gang) -> None:
    """A worker could not be started, so neither are the others; an elastic gang that runs does without it."""
    _leave(worker, gang)
    if gang_attempts.can_do_without(gang):
        _complete(gang)
    else:
        gang_attempts.disband(st, gang, "another worker of its gang could not be started")


def worker_gone(st: State, worker: Worker, gang: Gang, event: e.WorkerGone) -> None:
    """A worker of a gang has ended."""
    _leave(worker, gang)
    if gang.claim is not None:
        gang_recovery.broken(st, gang)
        return
    call = worker.leased.get(gang.call.id) if gang.call is not None else None
    late = call is not None and st.now - call.leased_at >= gang.pool.options.timeout
    overdue = bool(worker.condemned) and event.cause != "memory" and late
    gang_attempts.worker_gone(st, worker, gang, event, overdue=overdue)
    if not gang.broken:
        _complete(gang)


def _leave(worker: Worker, gang: Gang) -> None:
    gang.workers.remove(worker)
    if not gang.workers:
        gang.pool.gangs.pop(gang.id, None)


def attempts_ended(st: State, worker: Worker, event: e.AttemptsEnded) -> None:
    """Take in a worker's reports of its rank. What is not its gang's current attempt is dropped."""
    gang = worker.gang
    for call_id, attempt, result in zip(event.ids, event.attempts, event.results, strict=True):
        known = gang is not None and gang.attempt == attempt
        call = worker.leased.pop(call_id, None) if known else None
        if gang is None or call is None:
            st.discard(result.payload)
            if worker.unknown.pop(call_id, None) is not None and gang is not None and gang.claim is not None:
                gang_recovery.broken(st, gang)
            continue
        worker.done += 1
        gang_attempts.rank_ended(st, worker, gang, result)
    worker.head_since = st.now
    crash_loops.worked(worker.pool)
    settling.after_lease_ended(st, worker)
