"""After a restart: nothing is leased until it is known what still runs; what ran meanwhile is matched to its calls.

A worker of an earlier term reports attempts and results of calls that this term may not have heard of yet: attached
ones come back when their client resubmits them, detached ones from the store. Both are kept for the client's grace.
"""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import leasing, settling
from stoker.core.calls import Call, Result
from stoker.core.pools import Worker, WorkerState
from stoker.core.state import Held, State
from stoker.types import CallState

STRAY_SECONDS = 1.0  # results that were on their way when a connection broke are sent again within milliseconds


def begin(st: State, event: e.RecoveryBegan) -> None:
    st.recovering_nodes = set(event.nodes)
    st.recovering_until = event.until
    st.at(event.until, lambda: end(st))
    node_settled(st)


def node_settled(st: State) -> None:
    """End the wait once every expected node has reported and each of its workers has connected or ended."""
    if st.recovering_until is None or st.recovering_nodes:
        return
    if not any(worker.state is WorkerState.AWAY for worker in st.workers.values()):
        end(st)


def end(st: State) -> None:
    if st.recovering_until is None:
        return
    st.recovering_until = None
    st.recovering_nodes.clear()
    for pool in st.pools.values():
        st.touch(pool)


def reconcile(st: State, worker: Worker, held: dict[str, int]) -> None:
    """Compare what a worker says it holds with what we think it holds.

    A lease that was under way when its connection broke is held by neither: it is queued again, after a moment in which
    the results that the worker sends first thing can arrive.
    """
    for call_id, attempt in held.items():
        if call_id not in worker.leased:
            _claim(st, worker, call_id, attempt)
    strays = [call for call in worker.leased.values() if call.id not in held and call.state is CallState.LEASED]
    if strays:
        attempts = [call.attempt for call in strays]

        def requeue_strays() -> None:
            for call, attempt in zip(strays, attempts, strict=True):
                if worker.leased.get(call.id) is call and call.attempt == attempt and call.state is CallState.LEASED:
                    del worker.leased[call.id]
                    leasing.requeue(st, call)

        st.at(st.now + STRAY_SECONDS, requeue_strays)
    node_settled(st)


def _claim(st: State, worker: Worker, call_id: str, attempt: int) -> None:
    call = st.calls.get(call_id)
    if call is not None and call.state is CallState.QUEUED and call.worker is None:
        _give(st, worker, call, attempt)
    elif call is None:
        worker.unknown[call_id] = attempt
        st.held[call_id] = Held(worker.id, attempt, None, st.now + st.limits.client_grace)
        st.at(st.now + st.limits.client_grace, lambda: _give_up(st, call_id, attempt))
    else:
        st.emit(c.CancelRunning(worker.id, [call_id], [attempt], st.limits.cancel_grace, "it is run elsewhere"))
        worker.unknown[call_id] = attempt


def _give(st: State, worker: Worker, call: Call, attempt: int) -> None:
    """Make a call the worker's that has been running it all along."""
    call.pool.queue.discard(call)
    call.state = CallState.LEASED
    call.attempt = attempt
    call.worker = worker
    call.leased_at = st.now
    call.note(st.now, "adopted", f"attempt {attempt} runs on in {worker.id} after a restart of the server")
    worker.leased[call.id] = call


def adopt(st: State, call: Call) -> bool:
    """Match a call that has just come in with what a worker of an earlier term holds of it."""
    held = st.held.pop(call.id, None)
    if held is None:
        return False
    if held.result is not None:
        call.attempt = held.attempt
        call.note(st.now, "adopted", "it had ended before the server was restarted")
        call.state = CallState.LEASED
        settling.finish(st, call, held.result)
        return True
    worker = st.workers.get(held.worker)
    if worker is None or worker.unknown.pop(call.id, None) is None:
        return False
    _give(st, worker, call, held.attempt)
    return True


def result_of_unknown(st: State, worker_id: str, call_id: str, attempt: int, result: Result) -> None:
    """Keep a result whose call may still come back; drop one whose call was settled otherwise."""
    worker = st.workers.get(worker_id)
    expected = worker is not None and worker.unknown.pop(call_id, None) is not None
    call = st.calls.get(call_id)
    if call is not None:
        if call.state is CallState.QUEUED and call.attempt in {0, attempt} and call.worker is None:
            # Its worker finished it while the server was away, and the call was back before the report.
            call.pool.queue.discard(call)
            call.attempt = attempt
            call.state = CallState.LEASED
            settling.finish(st, call, result)
        else:
            st.discard(result.payload)
        return
    if expected or st.recovering_until is not None or st.now < st.limits.client_grace + st.started:
        st.held[call_id] = Held(worker_id, attempt, result, st.now + st.limits.client_grace)
        st.at(st.now + st.limits.client_grace, lambda: _give_up(st, call_id, attempt))
    else:
        st.discard(result.payload)


def _give_up(st: State, call_id: str, attempt: int) -> None:
    """Nobody asked for it within the grace."""
    held = st.held.get(call_id)
    if held is None or held.attempt != attempt or held.until > st.now:
        return
    del st.held[call_id]
    if held.result is not None:
        st.discard(held.result.payload)
        return
    worker = st.workers.get(held.worker)
    if worker is not None and call_id in worker.unknown:
        st.emit(c.CancelRunning(worker.id, [call_id], [attempt], st.limits.cancel_grace, "its client is gone"))
