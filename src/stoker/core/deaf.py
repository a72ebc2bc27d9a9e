"""Workers that hold an attempt which should have ended and has not: they end without harm to their other attempts.

Such a worker takes no more leases. What else it runs has the time to end that a worker always has; then it is killed,
and what it ran beside the deaf attempt is run again, which counts against no call. Calls that must not be run twice are
left to end by themselves, or by their own timeout.
"""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core.calls import Call
from stoker.core.draining import drain
from stoker.core.pools import Worker, WorkerState
from stoker.core.state import State
from stoker.types import CallState


def condemn(st: State, worker: Worker, reason: str, *, force: bool = False) -> None:
    """Lease a worker nothing more and kill it: now with ``force``, or when nothing is left that may still end."""
    if worker.state is WorkerState.STOPPING:
        return
    if not worker.condemned:
        worker.condemned = reason
        worker.patience = st.now + st.limits.stop_grace
    if force:
        worker.patience = st.now
        worker.asked.clear()
    if not stop_if_alone(st, worker) and worker.state is not WorkerState.DRAINING:
        drain(st, worker, reason)
        st.touch(worker.pool)


def stop_if_alone(st: State, worker: Worker) -> bool:
    """Kill a condemned worker, unless it runs something that still has time."""
    if any(_has_time(st, worker, call) for call in worker.running):
        return False
    worker.state, worker.stop_reason = WorkerState.STOPPING, worker.condemned
    st.emit(c.StopWorker(worker.id, 0.0, worker.condemned))
    return True


def _has_time(st: State, worker: Worker, call: Call) -> bool:
    if call.state is not CallState.LEASED or call.worker is not worker:
        return worker.asked.get(call.id, 0.0) > st.now
    if is_overdue(st, worker, call):
        return False
    return worker.patience > st.now or not call.pool.options.lost_retries


def is_overdue(st: State, worker: Worker, call: Call) -> bool:
    """Tell whether an attempt is past its timeout, by so much that its worker should have said so."""
    return began(worker, call) < st.now - worker.pool.options.timeout - st.limits.timeout_grace


def began(worker: Worker, call: Call) -> float:
    """Return when an attempt was started, as far as is known here."""
    if worker.pool.options.concurrency > 1:
        return call.leased_at  # of one that had to wait for a place: since it has one, see `stoker.core.reports`
    return max(call.leased_at, worker.head_since)
