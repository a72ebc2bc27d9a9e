"""Leases of calls that must not run twice: they are handed over once it is written down that they are.

Else a server that is killed in between, and its worker with it, would leave a call that has run and a store that says
it has not. Only functions with ``lost_retries=0`` pay for the wait; their workers are sent everything in order, so what
was leased behind such a call waits with it.
"""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import settling
from stoker.core.calls import Call
from stoker.core.pools import Worker, WorkerState
from stoker.core.state import State
from stoker.types import CallState


def send(st: State, worker: Worker, calls: list[Call]) -> None:
    """Have calls that a worker has been given sent to it: at once, or after the write."""
    if worker.pool.options.lost_retries or not (worker.withheld or any(call.detached for call in calls)):
        st.emit(c.LeaseCalls(worker.id, calls))
        return
    token = st.token()
    st.withheld[token] = worker, calls
    worker.withheld.update((call.id, token) for call in calls)
    st.writes.append(c.PersistProgress([call for call in calls if call.detached], token))


def written(st: State, token: int) -> None:
    """Send what this write was waited for, to the worker that still has it."""
    worker, calls = st.withheld.pop(token)
    mine = _take_back(worker, calls, token)
    sent = []
    for call in mine:
        if call.state is not CallState.LEASED or call.worker is not worker:
            del worker.leased[call.id]  # it was cancelled meanwhile, or is past its deadline
        elif worker.state is not WorkerState.READY or st.workers.get(worker.id) is not worker:
            del worker.leased[call.id]
            settling.requeue(st, call)
        else:
            call.leased_at = st.now
            sent.append(call)
    if sent:
        if len(worker.leased) == len(sent):
            worker.head_since = st.now
        st.emit(c.LeaseCalls(worker.id, sent))
    if len(sent) < len(mine):
        settling.after_lease_ended(st, worker)


def refused(st: State, token: int) -> None:
    """Try again later what could not be written down: it was not begun."""
    worker, calls = st.withheld.pop(token)
    mine = _take_back(worker, calls, token)
    for call in mine:
        del worker.leased[call.id]
        if call.state is CallState.LEASED and call.worker is worker:
            call.attempt -= 1
            settling.back_off(st, call, st.now + st.limits.persist_retry)
    if mine and st.workers.get(worker.id) is worker:
        settling.after_lease_ended(st, worker)


def _take_back(worker: Worker, calls: list[Call], token: int) -> list[Call]:
    """Return those of the calls that still wait for this very write."""
    mine = [call for call in calls if worker.withheld.get(call.id) == token and worker.leased.get(call.id) is call]
    for call in calls:
        if worker.withheld.get(call.id) == token:
            del worker.withheld[call.id]
    return mine
