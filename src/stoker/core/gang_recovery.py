"""Gangs of an earlier term: an attempt in progress is adopted whole, or ended whole and run again.

A worker that comes back names the seat that it had. Only when every rank of the gang holds the attempt, and the call
itself is back (from the store, or from its client), does it go on. A gang of which one rank ended, or let go, while no
server was there is disbanded, and so are workers that hold nothing: starting a gang anew is quick.
"""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import gang_attempts
from stoker.core.calls import Call
from stoker.core.pools import Gang, GangPhase, Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.types import CallState, GangSeat

UNKNOWN = ("", 0, 0)


def returned(st: State, worker: Worker, held: dict[str, int], seat: GangSeat | None) -> None:
    """Note what a worker of an earlier term says of itself."""
    gang = worker.gang or _join(worker, seat)
    worker.unknown = dict(held)
    if seat is None or len(held) != 1 or gang.broken:
        broken(st, gang)
        return
    ((call_id, attempt),) = held.items()
    claim = (call_id, attempt, len(seat.addresses))
    if gang.claim not in {claim, UNKNOWN}:
        broken(st, gang)
        return
    gang.claim = claim
    gang.addresses = list(seat.addresses)
    _keep_for_grace(st, gang)
    call = st.calls.get(call_id)
    if call is not None:
        adopt(st, call)
    elif st.recovering_until is None and not is_whole(gang):
        broken(st, gang)


def _join(worker: Worker, seat: GangSeat | None) -> Gang:
    """Put a worker into the gang of an earlier term that it names, or into one of its own."""
    pool = worker.pool
    gang = None if seat is None else pool.gangs.get(seat.gang)
    if gang is None or gang.claim is None:
        gang = Gang(seat.gang if seat is not None else worker.id, pool)
        gang.claim = UNKNOWN
        pool.gangs[gang.id] = gang
    ranks = gang.ranks
    ranks[worker.id] = 0 if seat is None else seat.rank
    gang.workers.append(worker)
    gang.workers.sort(key=lambda other: ranks[other.id])
    worker.gang = gang
    return gang


def _keep_for_grace(st: State, gang: Gang) -> None:
    """Nobody may ask for the call: its client is gone."""

    def give_up() -> None:
        if gang.claim is not None and not gang.broken:
            broken(st, gang)

    st.at(st.now + st.limits.client_grace, give_up)


def is_whole(gang: Gang) -> bool:
    """Tell whether every rank is there and holds the attempt."""
    if gang.claim is None or gang.broken:
        return False
    call_id, attempt, size = gang.claim
    held = [w for w in gang.workers if w.state is WorkerState.READY and w.unknown.get(call_id) == attempt]
    return len(held) == size == len(gang.workers)


def adopt(st: State, call: Call) -> bool:
    """Make a call its gang's that has been running it all along; false where that is not whole (yet)."""
    if call.state is not CallState.QUEUED or call.worker is not None:
        for gang in [g for g in call.pool.gangs.values() if g.claim is not None and g.claim[0] == call.id]:
            broken(st, gang)
        return False
    for gang in list(call.pool.gangs.values()):
        if gang.claim is None or gang.claim[0] != call.id or not is_whole(gang):
            continue
        _give(st, gang, call, gang.claim[1])
        return True
    return False


def _give(st: State, gang: Gang, call: Call, attempt: int) -> None:
    call.pool.queue.discard(call)
    call.state, call.attempt, call.worker, call.leased_at = CallState.LEASED, attempt, gang.workers[0], st.now
    call.note(
        st.now, "adopted", f"attempt {attempt} has gone on in {len(gang.workers)} ranks while its server was away"
    )
    gang.claim = None
    gang.phase, gang.call, gang.attempt, gang.size = GangPhase.RUNNING, call, attempt, len(gang.workers)
    for worker in gang.workers:
        worker.unknown.pop(call.id, None)
        worker.leased[call.id] = call
        worker.head_since = st.now


def broken(st: State, gang: Gang) -> None:
    """End what a gang of an earlier term runs, on all its ranks."""
    for worker in gang.workers:
        if worker.state is WorkerState.READY:
            for call_id, attempt in worker.unknown.items():
                grace = st.limits.gang_grace
                st.emit(c.CancelRunning(worker.id, [call_id], [attempt], grace, "its gang is not whole"))
                _kill_if_deaf(st, worker, call_id)
    gang_attempts.disband(st, gang, "its gang was not whole after a restart of the server")


def _kill_if_deaf(st: State, worker: Worker, call_id: str) -> None:
    def kill() -> None:
        alive = st.workers.get(worker.id) is worker and worker.state is not WorkerState.STOPPING
        if alive and call_id in worker.unknown:
            worker.state, worker.stop_reason = WorkerState.STOPPING, f"it did not let go of {call_id}"
            st.emit(c.StopWorker(worker.id, 0.0, worker.stop_reason))

    st.at(st.now + st.limits.gang_grace, kill)


def over(st: State, pool: Pool) -> None:
    """The wait for those who might still report is over."""
    for gang in list(pool.gangs.values()):
        if gang.claim is not None and not gang.broken and not is_whole(gang):
            broken(st, gang)
