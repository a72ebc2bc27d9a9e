"""How a worker is let go: it is leased nothing more, ends by itself once it has nothing left, and is stopped if not."""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core.calls import Call
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State


def drain(st: State, worker: Worker, reason: str) -> None:
    """Lease a worker nothing more, nor its gang; end it when it has nothing left."""
    if worker.gang is None:
        drain_one(st, worker, reason)
        return
    worker.gang.broken = worker.gang.broken or reason
    for rank in list(worker.gang.workers):
        if rank.state not in {WorkerState.DRAINING, WorkerState.STOPPING}:
            drain_one(st, rank, reason)


def leased_ahead(worker: Worker) -> list[Call]:
    """Return what a worker has been leased beyond what it runs: that can be taken back."""
    options, mixture = worker.pool.options, worker.pool.mixture
    if mixture is not None:
        begun = {call.id for call in mixture.begun(worker.leased.values())}
        return [call for call in worker.leased.values() if call.id not in begun]
    if options.concurrency > 1 and options.batch is None:
        return []
    return list(worker.leased.values())[worker.pool.per_worker :]


def drain_one(st: State, worker: Worker, reason: str) -> None:
    """Lease this worker nothing more; end it when it has nothing left."""
    worker.state = WorkerState.DRAINING
    worker.stop_reason = reason
    waiting = leased_ahead(worker)
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


def call_off_builds(st: State, pool: Pool) -> None:
    """Stop starts that wait for an environment which nothing wants any more: a build may take minutes.

    Of a version that is over all of them: a hook may hang, and with ``strategy="recreate"`` the next one waits for it.
    """
    if pool.waiting_calls or pool.awaits or (pool.options.min_workers and not pool.retired):
        return
    for worker in pool.workers.values():
        if worker.state is WorkerState.STARTING and (worker.phase == "building" or pool.retired):
            worker.state = WorkerState.STOPPING
            worker.stop_reason = "nobody waits for it any more"
            if worker.gang is not None:
                worker.gang.broken = worker.gang.broken or worker.stop_reason
            st.emit(c.StopWorker(worker.id, 0.0, worker.stop_reason))
