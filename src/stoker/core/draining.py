"""How a worker is let go: it is leased nothing more, ends by itself once it has nothing left, and is stopped if not."""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core.pools import Worker, WorkerState
from stoker.core.state import State


def drain(st: State, worker: Worker, reason: str) -> None:
    """Lease a worker nothing more; end it when it has nothing left."""
    worker.state = WorkerState.DRAINING
    worker.stop_reason = reason
    waiting = [] if worker.pool.options.concurrency > 1 else list(worker.leased.values())[1:]
    waiting = [call for call in waiting if call.id not in worker.withheld]
    if waiting and not worker.revoking:
        worker.revoking = True
        st.emit(c.RevokeLeases(worker.id, [x.id for x in waiting], [x.attempt for x in waiting]))
    st.emit(c.DrainWorker(worker.id, reason))
    since, grace = st.now, st.limits.stop_grace

    def stop_if_stuck() -> None:
        if st.workers.get(worker.id) is not worker or worker.state is not WorkerState.DRAINING:
            return
        due = st.now + grace if worker.leased else max(since, worker.idle_since) + grace
        if due > st.now:
            st.at(due, stop_if_stuck)
            return
        worker.state = WorkerState.STOPPING
        st.emit(c.StopWorker(worker.id, 0.0, f"it did not end within {grace:.0f} s of its last call"))

    st.at(since + grace, stop_if_stuck)
