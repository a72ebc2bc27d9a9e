"""After a restart: nothing is leased until it is known what still runs; what ran meanwhile is matched to its calls.

A worker of an earlier term reports attempts and results of calls that this term may not have heard of yet: attached
ones come back when their client resubmits them, detached ones from the store. Both are kept for the client's grace.
"""

from __future__ import annotations

from collections.abc import Mapping

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import gang_recovery, settling, streams
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
    doubtful, st.doubtful = st.doubtful, []
    for call in doubtful:
        _fail_unclaimed(st, call)
    for pool in st.pools.values():
        gang_recovery.over(st, pool)
        st.touch(pool)


def doubt(st: State, call: Call) -> None:
    """Take in a call that must not run twice and was leased in an earlier term: it is its worker's, or it is lost."""
    if st.recovering_until is None:
        _fail_unclaimed(st, call)
    else:
        st.doubtful.append(call)


def _fail_unclaimed(st: State, call: Call) -> None:
    if call.state is CallState.QUEUED and call.worker is None:
        call.losses -= 1  # the one that its lease was written down as
        settling.lost(st, call, cause="unknown", detail="it was gone when the server came back")


def reconcile(st: State, worker: Worker, held: dict[str, int], ages: Mapping[str, float]) -> None:
    """Compare what a worker says it holds with what we think it holds.

    A lease that was under way when its connection broke is held by neither: it is queued again, after a moment in which
    the results that the worker sends first thing can arrive.
    """
    for call_id, attempt in held.items():
        if call_id not in worker.leased:
            _claim(st, worker, call_id, attempt, began=st.now - max(0.0, ages.get(call_id, 0.0)))
    strays = [(call, call.attempt) for call in worker.leased.values() if call.id not in {*held, *worker.withheld}]
    if strays:
        st.at(st.now + STRAY_SECONDS, lambda: _requeue_strays(st, worker, strays))
    node_settled(st)


def _requeue_strays(st: State, worker: Worker, strays: list[tuple[Call, int]]) -> None:
    """Take back what the worker has not; of calls that were settled meanwhile only the worker's place is freed."""
    if st.workers.get(worker.id) is not worker:
        return  # it has ended, and its calls went elsewhere
    for call, attempt in strays:
        if worker.leased.get(call.id) is not call or (call.worker is worker and call.attempt != attempt):
            continue
        del worker.leased[call.id]
        if call.state is CallState.LEASED and call.worker is worker:
            settling.requeue(st, call)
    settling.after_lease_ended(st, worker)


def _claim(st: State, worker: Worker, call_id: str, attempt: int, *, began: float) -> None:
    call = st.calls.get(call_id)
    held = st.held.get(call_id)
    if call is not None and call.state is CallState.QUEUED and call.worker is None:
        give(st, worker, call, attempt, began=began)
        return
    worker.unknown[call_id] = attempt
    if call is None and (held is None or held.result is None):
        hold(st, worker.id, call_id, attempt).began = began
    else:
        st.emit(c.CancelRunning(worker.id, [call_id], [attempt], st.limits.cancel_grace, "it is run elsewhere"))


def hold(st: State, worker_id: str, call_id: str, attempt: int) -> Held:
    """Keep what a worker has of a call that nobody has asked this term for, for the client's grace."""
    until = st.now + st.limits.client_grace
    held = st.held.get(call_id)
    if held is None or (held.worker, held.attempt) != (worker_id, attempt):
        if held is not None:
            _drop(st, held)
        held = st.held[call_id] = Held(worker_id, attempt, None, until)
    held.until = until
    st.at(until, lambda: _give_up(st, call_id, attempt))
    return held


def hold_items(st: State, event: e.ItemsCame, call: Call | None) -> bool:
    """Keep items of a stream that its client has not asked this term for, or whose end is about to be reported.

    A worker that reconnects sends items that their reader may not have had, and only them: dropped, they were lost.
    """
    worker = st.workers.get(event.worker)
    waits = call is None or (call.state is CallState.QUEUED and call.worker is None)
    if not waits or worker is None or event.id in worker.leased:
        return False
    held = st.held.get(event.id)
    if held is None and not is_young(st):
        return False
    if held is None:
        held = hold(st, event.worker, event.id, event.attempt)
    if (held.worker, held.attempt, held.result) != (event.worker, event.attempt, None):
        return False
    held.items.append((event.first, event.payloads))
    return True


def is_young(st: State) -> bool:
    """Tell whether calls of an earlier term may still be submitted again."""
    return st.recovering_until is not None or st.now < st.limits.client_grace + st.started


def _drop(st: State, held: Held) -> None:
    for _, payloads in held.items:
        for payload in payloads:
            st.discard(payload)
    if held.result is not None:
        st.discard(held.result.payload)


def _pass_on_items(st: State, call: Call, worker_id: str, attempt: int) -> None:
    """Have the reader sent what was kept of its stream."""
    held = st.held.pop(call.id, None)
    if held is None:
        return
    if (held.worker, held.attempt) != (worker_id, attempt):
        _drop(st, held)
        return
    for first, payloads in held.items:
        streams.pass_on(st, call, attempt, first, payloads)


def give(
    st: State, worker: Worker, call: Call, attempt: int, *, began: float = 0.0, why: str = "its server or node was away"
) -> None:
    """Make a call the worker's that has been running it all along, since ``began`` as far as that is known."""
    call.pool.queue.discard(call)
    call.state = CallState.LEASED
    call.attempt = attempt
    call.worker = worker
    call.leased_at = began or st.now
    call.note(st.now, "adopted", f"attempt {attempt} has gone on in worker {worker.id} while {why}")
    worker.leased[call.id] = call
    _pass_on_items(st, call, worker.id, attempt)
    # Calls that it waits for may have been submitted again before itself.
    call.children = sum(1 for mine in st.by_client.values() for other in mine.values() if other.parent == call.id)
    if call.children:
        settling.lend(st, worker)


def adopt(st: State, call: Call) -> bool:
    """Match a call that has just come in with what a worker of an earlier term holds of it."""
    held = st.held.get(call.id)
    if held is None:
        return False
    if held.result is not None:
        call.attempt = held.attempt
        call.note(st.now, "adopted", "it had ended before the server was restarted")
        call.state = CallState.LEASED
        _pass_on_items(st, call, held.worker, held.attempt)
        settling.finish(st, call, held.result)
        return True
    worker = st.workers.get(held.worker)
    if worker is not None and worker.unknown.pop(call.id, None) is not None:
        give(st, worker, call, held.attempt, began=held.began)
        return True
    if worker is None:
        del st.held[call.id]
        _drop(st, held)
    return False  # else its items came, and its result is on its way


def result_of_unknown(st: State, worker_id: str, call_id: str, attempt: int, result: Result) -> None:
    """Keep a result whose call may still come back; drop one whose call was settled otherwise."""
    worker = st.workers.get(worker_id)
    expected = worker is not None and worker.unknown.pop(call_id, None) is not None
    call = st.calls.get(call_id)
    if call is not None:
        theirs = worker is None or worker.pool is call.pool
        if theirs and call.state is CallState.QUEUED and call.attempt in {0, attempt} and call.worker is None:
            # Its worker finished it while the server was away, and the call was back before the report.
            call.pool.queue.discard(call)
            call.attempt = attempt
            call.state = CallState.LEASED
            _pass_on_items(st, call, worker_id, attempt)
            settling.finish(st, call, result)
        else:
            st.discard(result.payload)
        return
    held = st.held.get(call_id)
    if held is not None and held.result is not None:
        if (held.worker, held.attempt) != (worker_id, attempt):
            st.discard(result.payload)  # another attempt was first
    elif expected or is_young(st):
        hold(st, worker_id, call_id, attempt).result = result
    else:
        st.discard(result.payload)


def _give_up(st: State, call_id: str, attempt: int) -> None:
    """Nobody asked for it within the grace."""
    held = st.held.get(call_id)
    if held is None or held.attempt != attempt or held.until > st.now:
        return
    del st.held[call_id]
    _drop(st, held)
    worker = st.workers.get(held.worker)
    if worker is not None and call_id in worker.unknown:
        st.emit(c.CancelRunning(worker.id, [call_id], [attempt], st.limits.cancel_grace, "its client is gone"))
