"""How calls come in: admission, acceptance, cancellation, and clients that leave."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.core import (
    admission,
    channels,
    deaf,
    fairness,
    gang_attempts,
    gang_recovery,
    handover,
    leasing,
    recovery,
    settling,
    stopping,
)
from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import STREAMS, Call, Payload, Result, stoker_error
from stoker.core.draining import call_off_builds
from stoker.core.placement import why_never
from stoker.core.pools import Pool, Worker
from stoker.core.state import State
from stoker.types import CallState, ErrorInfo, Growth, Outcome

GANG_OPTIONS = "with gang=, cpu= or memory="
STREAM_WINDOW_ITEMS = 64  # items a generator may be ahead of its reader


def declare(st: State, event: e.FunctionDeclared) -> None:
    pool = st.pools.get(event.key)
    if pool is None:
        pool = st.pools[event.key] = Pool(event.key, event.spec)
    pool.retired = False
    pool.role, pool.is_alone = event.role, event.is_alone
    if not pool.role:
        pool.failed_trial, pool.barren, pool.replaced_by = "", 0, ""  # it is on trial no more: what fails, fails openly
    if event.is_divided and not pool.is_divided:
        channels.reclaim(st, pool)
    pool.is_divided = event.is_divided
    st.touch(pool)


def retire(st: State, event: e.FunctionRetired) -> None:
    pool = st.pools.get(event.key)
    if pool is not None:
        handover.retire(st, pool)


def submit(st: State, event: e.Submitted) -> None:
    """Take calls in, as many as there is room for; the rest are refused with the reason."""
    ids, payloads = _unknown_only(st, event)
    if not ids:
        return
    pool = st.pools.get(event.function)
    if pool is None:
        message = "This server does not know the function. Run or deploy its app again."
        _refuse(st, event, ids, payloads, stoker_error("NotFound", message))
        return
    refusal = None if pool.schedulable else _impossible(st, pool)
    if refusal is None and event.deadline is not None and not (event.again or channels.of(st, event)):
        refusal = _too_late(st, pool, event)
    if refusal is not None:
        _refuse(st, event, ids, payloads, refusal)
        return
    count = len(ids)
    if not event.again and channels.of(st, event) is None:
        count = min(count, admission.room(pool.waiting_calls, max_pending=pool.options.max_pending, kind=_kind(event)))
        if count < len(ids) and event.traces and len(ids) > 1:
            for one in _each(event, ids, payloads):  # what is idle takes some of them, which then do not wait
                submit(st, one)
            return
        if count < len(ids):
            count += fairness.make_room(st, pool, event, taken=count, wanted=len(ids) - count)
    if count < len(ids):
        _refuse(st, event, ids[count:], payloads[count:], _overloaded(pool))
    if count:
        _take(st, pool, event, ids[:count], payloads[:count])


def _each(event: e.Submitted, ids: Sequence[str], payloads: Sequence[Payload]) -> list[e.Submitted]:
    """Return an event for each of these calls, which others have asked for than for the rest."""
    traces = dict(zip(event.ids, event.traces, strict=True))
    return [
        event._replace(ids=[call_id], payloads=[payload], traces=[traces[call_id]])
        for call_id, payload in zip(ids, payloads, strict=True)
    ]


def _kind(event: e.Submitted) -> str:
    return "call" if event.detached else event.kind


def _unknown_only(st: State, event: e.Submitted) -> tuple[Sequence[str], Sequence[Payload]]:
    """Return what was not submitted before: a client that reconnects sends all that is open again."""
    calls = st.calls
    if calls.keys().isdisjoint(event.ids):
        return event.ids, event.payloads
    ids, payloads = [], []
    for call_id, payload in zip(event.ids, event.payloads, strict=True):
        known = calls.get(call_id)
        if known is None:
            ids.append(call_id)
            payloads.append(payload)
            continue
        if payload != known.payload:
            st.discard(payload)
        if known.detached and known.state is not CallState.ACCEPTING:
            st.emit(c.TellAccepted(event.client, [call_id]))
    return ids, payloads


def _impossible(st: State, pool: Pool) -> ErrorInfo | None:
    error = unschedulable(st, pool, count=pool.least)
    if error is None:
        pool.schedulable = bool(st.nodes)
    return error


def unschedulable(st: State, pool: Pool, *, count: int) -> ErrorInfo | None:
    """Return the error for workers that the nodes can never hold; None where they can, or where others will come."""
    reason = "" if st.growth is Growth.BY_ITSELF else why_never(st.nodes.values(), pool.needs, count=count)
    if not reason:
        return None
    less = "with cpu= or memory=" if pool.options.gang is None else GANG_OPTIONS
    more = "run it on a larger machine" if st.growth is Growth.NEVER else "add a node: this cluster adds none by itself"
    return stoker_error("Unschedulable", f"{pool.spec.label} asks for {reason}. Ask for less {less}, or {more}.")


def _too_late(st: State, pool: Pool, event: e.Submitted) -> ErrorInfo | None:
    wait = admission.too_late(pool.load(), deadline=event.deadline, now=st.now)
    if wait is not None and any(w.idle and st.now - w.idle_since >= wait for w in pool.workers.values()):
        return None  # what was measured may be of a slow first call, or long ago: only running one tells
    if wait is not None:  # by all that waits: what comes before it may be less
        wait = admission.too_late(fairness.fair_load(pool, event.client), deadline=event.deadline, now=st.now)
    if wait is None:
        return None
    message = (
        f"{pool.spec.label} could answer in about {wait:.2f} s, after the call's deadline. Try again later, give it a "
        "longer deadline, or allow the function more workers."
    )
    return stoker_error("Overloaded", message, {"retry_after": round(wait, 3), "reason": "deadline"})


def _overloaded(pool: Pool) -> ErrorInfo:
    wait = admission.expected_wait(pool.load()) or 1.0
    message = (
        f"{pool.spec.label} has {pool.load().waiting} calls waiting, and max_pending={pool.options.max_pending} are "
        f"held. Try again in {wait:.1f} s, or raise max_pending."
    )
    return stoker_error("Overloaded", message, {"retry_after": round(wait, 3), "reason": "queue_full"})


def _refuse(st: State, event: e.Submitted, ids: Sequence[str], payloads: Sequence[Payload], error: ErrorInfo) -> None:
    st.emit(c.TellRefused(event.client, list(ids), error, event.function))
    for payload in payloads:
        st.discard(payload)


def _take(st: State, pool: Pool, event: e.Submitted, ids: Sequence[str], payloads: Sequence[Payload]) -> None:
    detached, now = event.detached, st.now
    deadline = event.deadline
    traces = dict(zip(event.ids, event.traces, strict=True)) if event.traces else {}
    taken = []
    for call_id, payload in zip(ids, payloads, strict=True):
        # fmt: off
        call = Call(
            call_id, pool, event.client, payload, now, event.kind, detached, event.priority, deadline, event.parent,
            event.method, traces.get(call_id, event.trace),
        )
        # fmt: on
        st.calls[call_id] = call
        taken.append(call)
    if deadline is not None:
        st.at(deadline, lambda: _expire_all(st, ids))  # ids, as calls that were settled long before must not stay
    if detached:
        for call in taken:
            call.state = CallState.ACCEPTING
        pool.accepting += len(taken)
        token = st.token()
        st.accepting[token] = taken
        st.writes.append(c.PersistAccepted(token, taken))
        return
    if event.kind in STREAMS:
        for call in taken:
            call.upto = STREAM_WINDOW_ITEMS
    _own(st, pool, event.client, taken)
    _tie_to_parent(st, event.parent, len(taken))
    if st.held:
        taken = [call for call in taken if not recovery.adopt(st, call)]
    if pool.gangs:
        taken = [call for call in taken if not gang_recovery.adopt(st, call)]
    channel = channels.of(st, event)
    if channel is not None:
        taken = [call for call in taken if not channels.hand_over(st, channel, call)]
    if len(taken) == 1 and leasing.lease_at_once(st, pool, taken[0]):
        return
    for call in taken:
        pool.queue.push(call)
    st.touch(pool)


def _expire_all(st: State, ids: Sequence[str]) -> None:
    for call_id in ids:
        call = st.calls.get(call_id)
        if call is not None:
            settling.expire(st, call)


def _own(st: State, pool: Pool, client: str, taken: list[Call]) -> None:
    st.by_client.setdefault(client, {}).update((call.id, call) for call in taken)
    before = pool.clients.get(client, 0)
    pool.clients[client] = before + len(taken)
    if not before and taken[0].kind == "map":
        share_windows(st, pool)


def share_windows(st: State, pool: Pool) -> None:
    """Tell each client that maps here its share, where it has changed."""
    size = admission.window(pool.options.max_pending, len(pool.clients))
    for client in pool.clients:
        if st.windows.get((client, pool.key)) != size:
            st.windows[client, pool.key] = size
            st.emit(c.SetWindow(client, pool.key, size))


def _tie_to_parent(st: State, parent_id: str, count: int) -> None:
    parent = st.calls.get(parent_id) if parent_id else None
    if parent is not None:
        parent.children += count
        if parent.worker is not None:
            settling.lend(st, parent.worker)


def restore(st: State, event: e.Restored) -> None:
    """Take a call of an earlier term back in."""
    pool = st.pools.get(event.function)
    if event.id in st.calls or pool is None:
        return
    call = Call(
        event.id,
        pool,
        event.client,
        event.payload,
        event.created,
        detached=True,
        priority=event.priority,
        deadline=event.deadline,
        parent=event.parent,
        method=event.method,
        trace=event.trace,
    )
    call.seq, call.failures, call.losses = event.seq, event.failures, event.losses
    call.history = list(event.history) or None
    call.attempt = call.failures + call.losses + stopping.attempts_in(event.history)
    st.calls[call.id] = call
    if call.deadline is not None:
        st.at(call.deadline, lambda: settling.expire(st, call))
    if (st.held and recovery.adopt(st, call)) or (pool.gangs and gang_recovery.adopt(st, call)):
        return
    if call.losses > pool.options.lost_retries:
        recovery.doubt(st, call)
    elif event.not_before > st.now:
        settling.back_off(st, call, event.not_before)
    else:
        pool.queue.push(call)
    st.touch(pool)


def cancel(st: State, event: e.CancelAsked) -> None:
    """Settle calls as cancelled; running code is told, and its worker killed if it does not listen."""
    running: dict[str, list[Call]] = {}
    for call_id in event.ids:
        call = st.calls.get(call_id)
        if call is None or call.state.settled:
            continue
        worker = call.worker
        if call.state is CallState.LEASED and worker is not None and worker.gang is not None:
            cancel_one(st, call, event.reason)
            gang_attempts.end_ranks(st, worker.gang, event.reason, force=event.force)
            st.touch(call.pool)
            continue
        if call.state is CallState.LEASED and worker is not None:
            running.setdefault(worker.id, []).append(call)
        elif st.channels and not call.queued:
            channels.cancelled(st, call, grace=0.0 if event.force else st.limits.cancel_grace)
        cancel_one(st, call, event.reason)
    for worker_id, calls in running.items():
        _cancel_running(st, worker_id, calls, reason=event.reason, force=event.force)


def cancel_one(st: State, call: Call, reason: str) -> None:
    text = {"closed": "its reader closed the stream", "sibling": "another call of its map failed"}.get(reason, reason)
    message = f"Call {call.id} of {call.label} was cancelled ({text})."
    error = stoker_error("CallCancelled", message, {"call_id": call.id, "function": call.label})
    settling.settle(st, call, CallState.CANCELLED, Result(Outcome.CANCELLED, error=error))
    call_off_builds(st, call.pool)


def _cancel_running(st: State, worker_id: str, calls: list[Call], *, reason: str, force: bool) -> None:
    worker = st.workers.get(worker_id)
    if worker is None:
        return
    grace = 0.0 if force else st.limits.cancel_grace
    ids = [call.id for call in calls]
    worker.asked.update(dict.fromkeys(ids, st.now + grace))
    st.emit(c.CancelRunning(worker_id, ids, [call.attempt for call in calls], grace, reason))

    def kill_if_deaf() -> None:
        for call_id in ids:
            worker.asked.pop(call_id, None)
        unheard = [call_id for call_id in ids if call_id in worker.leased]
        if unheard and st.workers.get(worker_id) is worker:
            deaf.condemn(st, worker, f"it ignored the cancellation of {unheard[0]}", force=force)

    if force:
        kill_if_deaf()
    else:
        st.at(max(st.now + grace, _left_until(st, worker, calls)), kill_if_deaf)


def _left_until(st: State, worker: Worker, calls: list[Call]) -> float:
    """Return how long requests for web apps may go on unheard: others' run beside them, and theirs may not be cut.

    A client hangs up easily, and nothing interrupts a thread. So such a one has its timeout, like any other.
    """
    options = worker.pool.options
    if options.concurrency <= 1:
        return 0.0
    began = [deaf.began(worker, call) for call in calls if call.kind == "exchange"]
    return max(began, default=0.0) + options.timeout + st.limits.timeout_grace if began else 0.0


def client_came(st: State, event: e.ClientCame) -> None:
    st.away.pop(event.client, None)
    for key in [key for key in st.windows if key[0] == event.client]:
        st.emit(c.SetWindow(event.client, key[1], st.windows[key]))


def client_left(st: State, event: e.ClientLeft) -> None:
    if event.final:
        forget_client(st, event.client)
        return
    until = st.now + st.limits.client_grace
    st.away[event.client] = until

    def gone() -> None:
        if st.away.get(event.client) == until:
            forget_client(st, event.client)

    st.at(until, gone)


def forget_client(st: State, client: str) -> None:
    """Cancel what a client that will not come back was waiting for."""
    st.away.pop(client, None)
    channels.client_gone(st, client)
    open_calls = list(st.by_client.get(client, ()))
    if open_calls:
        cancel(st, e.CancelAsked(open_calls, reason="its client is gone"))
    st.by_client.pop(client, None)
    for key in [key for key in st.windows if key[0] == client]:
        del st.windows[key]


def stream_read(st: State, event: e.StreamRead) -> None:
    call = st.calls.get(event.id)
    if call is None or event.upto <= call.upto:
        return
    call.upto = event.upto
    if call.state is CallState.LEASED and call.worker is not None:
        st.emit(c.GrantStream(call.worker.id, call.id, call.upto))
