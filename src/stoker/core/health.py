"""What becomes of a worker whose checks fail, or do not come.

A worker checks itself (`stoker.client.health`) and says how each check ended. One that says nothing for so long that a
check must have been due and over counts that as a failure: its interpreter is stuck, or its process is stopped. After
so many failures in a row it is leased nothing more. One that still speaks may end what it runs within the grace that
every worker has; one that does not is killed at once. What it ran then is run again, which counts against no call.
Calls that must not be run twice are left to end by themselves, or by their timeout.
"""

from __future__ import annotations

from stoker.core import crash_loops, deaf
from stoker.core import events as e
from stoker.core.draining import drain
from stoker.core.pools import Worker, WorkerState
from stoker.core.state import State
from stoker.types import HealthSpec

SLACK_SECONDS = 1.0  # for a report to be made and to come, on a busy machine
WORDS_MAX = 500  # of what a check raised, for people


def connected(st: State, worker: Worker) -> None:
    """A worker can be heard from now on: what it failed to say while it could not be is no failure."""
    worker.checked = st.now


def checked(st: State, event: e.WorkerChecked) -> None:
    """Take in how a worker's check ended."""
    worker = st.workers.get(event.worker)
    spec = worker.pool.spec.health if worker is not None else None
    if worker is None or spec is None:
        return
    worker.checked = st.now
    if event.error:
        _failed(st, worker, spec, event.error[:WORDS_MAX], is_silent=False)
    else:
        worker.failed_checks, worker.ill = 0, ""


def look(st: State, worker: Worker, spec: HealthSpec) -> None:
    """Count a check that should have been reported by now and was not."""
    if worker.state is not WorkerState.READY and not (worker.state is WorkerState.DRAINING and worker.leased):
        return
    allowed = spec.every + spec.timeout + SLACK_SECONDS
    if st.now - worker.checked >= allowed:
        worker.checked = st.now
        _failed(st, worker, spec, f"it has not said how it is for {allowed:g} s", is_silent=True)


def _failed(st: State, worker: Worker, spec: HealthSpec, why: str, *, is_silent: bool) -> None:
    worker.failed_checks += 1
    worker.ill = why
    if worker.failed_checks < spec.failures or worker.state is WorkerState.STOPPING:
        return
    times = "its check failed" if worker.failed_checks == 1 else f"its last {worker.failed_checks} checks failed"
    reason = f"{times}: {why}"
    pool = worker.pool
    if not worker.condemned and worker.state is WorkerState.READY and not worker.done:
        crash_loops.failed(st, pool, reason)  # one that has done nothing yet: neither may the next one
    if is_silent:
        deaf.condemn(st, worker, reason, force=True)
    elif worker.leased:
        deaf.condemn(st, worker, reason)
    elif worker.state is WorkerState.READY:
        worker.condemned = reason  # should it not end by itself, it is no fault of what it runs by then
        drain(st, worker, reason)
    st.touch(pool)
