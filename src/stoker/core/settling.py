"""How attempts end and calls are settled: once, by the first attempt that finishes."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.core import commands as c
from stoker.core import deaf, retries
from stoker.core.calls import Call, Delivery, Result, Settlement, stoker_error
from stoker.core.pools import Worker, WorkerState
from stoker.core.state import State
from stoker.types import INPUT_LOST, CallState, ErrorInfo, Outcome

MORE_LOSSES = "A call that may be run more often can be given lost_retries=."
_ENDED_BY_ITSELF = frozenset({"exit", "signal"})
_FAILURES = frozenset({Outcome.ERROR, Outcome.TIMEOUT, Outcome.MEMORY})


def after_lease_ended(st: State, worker: Worker) -> None:
    if not worker.leased and not worker.unknown:
        worker.idle_since = st.now
    node = st.nodes.get(worker.node)  # none while the end of a node is dealt with, worker by worker
    if node is not None and worker.id in node.lent:
        lend(st, worker)
    if len(worker.pool.queue) or not worker.pool.is_plain:
        st.touch(worker.pool)


def finish(st: State, call: Call, result: Result) -> None:
    """Settle a call by its attempt's result, or have it tried again."""
    outcome = result.outcome
    if outcome is Outcome.VALUE:
        call.pool.done += 1
        settle(st, call, CallState.SUCCEEDED, result)
    elif outcome in _FAILURES:
        fail(st, call, result)
    elif outcome is Outcome.CANCELLED:
        # Nobody asked for it (a call that was cancelled is settled already): the worker was told to end, or the input
        # did not reach it.
        error = result.error
        lacked = (
            f"the call's input did not reach it: {error.message}" if error and error.type_name == INPUT_LOST else ""
        )
        lost(st, call, cause="stopped", detail=lacked or "it was told to end")
    else:
        call.pool.failed += 1
        settle(st, call, CallState.FAILED, result)


def fail(st: State, call: Call, result: Result) -> None:
    """Count a failure: back off and try again, or settle."""
    call.failures += 1
    options = call.pool.options
    if not _is_half_answered(call) and retries.wants_retry(options, call.failures, result.error):
        wait = retries.delay(options.retries, call.failures)
        what = result.error.name if result.error else result.outcome.name.lower()
        call.note_run()
        call.note(st.now, "failed", f"attempt {call.attempt}: {what}; the next one in {wait:g} s")
        st.discard(result.payload)
        back_off(st, call, st.now + wait)
        _write_progress(st, call)
        return
    call.pool.failed += 1
    settle(st, call, CallState.FAILED, result)


def back_off(st: State, call: Call, until: float) -> None:
    """Let a call wait until then and queue it again."""
    call.state = CallState.BACKOFF
    call.worker = None
    call.leased_at = 0.0
    call.not_before = until
    call.pool.backoff += 1

    def again() -> None:
        if call.state is CallState.BACKOFF and call.not_before == until:
            call.pool.backoff -= 1
            st.move(call, CallState.QUEUED)
            call.pool.queue.push(call)
            st.touch(call.pool)

    st.at(until, again)


def _write_progress(st: State, call: Call) -> None:
    if call.detached:
        st.writes.append(c.PersistProgress([call]))


def lost(st: State, call: Call, *, cause: str, detail: str, said: Sequence[tuple[str, str]] = ()) -> None:
    """Deal with an attempt whose worker ended under it; ``said``: the worker's last lines, each with its call."""
    pool = call.pool
    where = {"call_id": call.id, "function": call.label}
    if cause == "memory":
        message = f"Call {call.id} of {call.label} ran out of memory: {detail}. Give the function more memory=."
        fail(st, call, Result(Outcome.MEMORY, error=_own_error("OutOfMemory", message, where, "MemoryError")))
        return
    call.losses += 1
    if _is_half_answered(call):
        _cut_off(st, call, detail=f"{detail}{_likely(cause, detail)}")
        return
    if retries.survives_loss(pool.options, call.losses):
        wait = retries.loss_delay(call.losses) if cause in _ENDED_BY_ITSELF else 0.0
        when = f" in {wait:g} s" if wait else ""
        call.note_run()
        call.note(st.now, "lost", f"attempt {call.attempt}: its worker ended ({detail}); it is run again{when}")
        if wait:
            back_off(st, call, st.now + wait)
        else:
            _run_again(st, call)
        _write_progress(st, call)
        return
    message = (
        f"Call {call.id} of {call.label} lost its worker {_times(call.losses)}; the last one ended with: "
        f"{detail}.{_likely(cause, detail)} {MORE_LOSSES}{last_output(said, call_id=call.id)}"
    )
    pool.failed += 1
    settle(st, call, CallState.FAILED, Result(Outcome.ERROR, error=stoker_error("WorkerLost", message, where)))


def _is_half_answered(call: Call) -> bool:
    """Tell whether part of an answer has gone out, which another attempt could not go on with."""
    return call.kind == "exchange" and call.items > 0


def _cut_off(st: State, call: Call, *, detail: str) -> None:
    label = call.pool.spec.label
    message = f"Call {call.id} of {label} lost its worker in the middle of its answer: {detail}."
    call.pool.failed += 1
    error = stoker_error("WorkerLost", message, {"call_id": call.id, "function": label})
    settle(st, call, CallState.FAILED, Result(Outcome.ERROR, error=error))


def _likely(cause: str, detail: str) -> str:
    """Say what may have ended a worker so, where that is not told already."""
    if cause == "exit":
        return " The code itself may have ended the process (os._exit, say)."
    if cause == "signal" and "signal 9" in detail:
        return " Something outside of the code has killed it: somebody, or the kernel, for want of memory."
    return " Its native code may have crashed." if cause == "signal" else ""


def last_output(said: Sequence[tuple[str, str]], *, call_id: str = "") -> str:
    """Return a worker's last lines for an error: those of one call, and what belongs to none (native code's)."""
    # What Python's own tracker of semaphores warns of after a process was killed says nothing of why.
    lines = [text for call, text in said if call in {"", call_id} and "resource_tracker" not in text]
    return "".join(["\nIts last output:", *(f"\n  {line}" for line in lines)]) if lines else ""


def displaced(st: State, call: Call, *, detail: str) -> None:
    """Run an attempt again whose worker had to be ended for another one's sake: that is no loss of its own."""
    if _is_half_answered(call):
        _cut_off(st, call, detail=detail)
        return
    call.note_run()
    call.note(st.now, "displaced", f"attempt {call.attempt}: its worker was ended ({detail}); it is run again")
    _run_again(st, call)


def _run_again(st: State, call: Call) -> None:
    st.move(call, CallState.QUEUED)
    call.worker = None
    call.leased_at = 0.0
    call.pool.queue.push_front(call)
    st.touch(call.pool)


def requeue(st: State, call: Call) -> None:
    """Put a call that was leased and not started at the head of the queue."""
    call.attempt -= 1
    _run_again(st, call)
    if call.detached and not call.pool.options.lost_retries:
        st.writes.append(c.PersistProgress([call]))  # it was written down as with its worker


def put_back(st: State, call: Call) -> None:
    """Put a call whose attempt never began at the head of the queue. The attempt's number is not used again."""
    _run_again(st, call)
    if call.detached and not call.pool.options.lost_retries:
        _write_progress(st, call)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _own_error(name: str, message: str, fields: dict[str, str], builtin: str) -> ErrorInfo:
    return ErrorInfo(type_name=name, message=message, mro=[name, f"builtins.{builtin}"], fields=dict(fields))


def timed_out(st: State, call: Call, *, who: str = "") -> None:
    """Deal with an attempt that ran into its timeout and whose worker had to be stopped for it."""
    pool = call.pool
    rank = f" in {who}" if who else ""
    message = f"Call {call.id} of {call.label} ran longer than timeout={pool.options.timeout:g} s{rank}."
    fields = {"call_id": call.id, "function": call.label}
    fail(st, call, Result(Outcome.TIMEOUT, error=_own_error("CallTimeout", message, fields, "TimeoutError")))


def expire(st: State, call: Call) -> None:
    """Drop a call whose deadline has come before it was leased; what runs may still make it, so it is told to stop."""
    if call.state.settled or call.state is CallState.ACCEPTING:
        return
    message = f"Call {call.id} of {call.label} was not answered by its deadline."
    error = stoker_error("DeadlineExceeded", message, {"call_id": call.id, "function": call.label})
    worker = call.worker
    if call.state is CallState.LEASED and worker is not None:
        if worker.gang is None:
            st.emit(c.CancelRunning(worker.id, [call.id], [call.attempt], st.limits.cancel_grace, "deadline"))
        st.touch(call.pool)  # a gang ends what is over when it is looked at
    call.pool.failed += 1
    settle(st, call, CallState.FAILED, Result(Outcome.ERROR, error=error))


def settle(st: State, call: Call, state: CallState, result: Result) -> None:
    """End a call. Attached ones are delivered and forgotten; detached ones are written down first."""
    if call.queued:
        call.pool.queue.discard(call)
    if call.state is CallState.BACKOFF:
        call.pool.backoff -= 1
    accepting = call.state is CallState.ACCEPTING
    st.move(call, state)
    if call.detached:
        st.settlements.append(Settlement(call, state, result, st.now, call.timeline(st.now)))
        if accepting:
            call.note(st.now, "cancelled", "before it was accepted")
        return
    _drop(st, call)
    deliveries = st.deliveries.get(call.client)
    if deliveries is None:
        deliveries = st.deliveries[call.client] = []
    deliveries.append(Delivery(call.id, result, call.attempt, call))


def forget(st: State, call: Call) -> None:
    """Drop an attached call that its client has the answer of already."""
    call.state = CallState.SUCCEEDED
    _drop(st, call)


def _drop(st: State, call: Call) -> None:
    del st.calls[call.id]
    st.discard(call.payload)
    call.payload = b""  # a record of the call may be kept for people; its bytes need not
    _disown(st, call)
    if call.parent:
        _untie_from_parent(st, call)


def _disown(st: State, call: Call) -> None:
    mine = st.by_client.get(call.client)
    if mine is not None:
        mine.pop(call.id, None)
        if not mine:
            del st.by_client[call.client]
    clients = call.pool.clients
    left = clients.get(call.client, 0) - 1
    if left > 0:
        clients[call.client] = left
    else:
        # The client keeps its window: telling the others of their greater share can wait for the next newcomer.
        clients.pop(call.client, None)


def _untie_from_parent(st: State, call: Call) -> None:
    parent = st.calls.get(call.parent)
    if parent is not None and parent.children:
        parent.children -= 1
        if parent.worker is not None:
            lend(st, parent.worker)


def lend(st: State, worker: Worker) -> None:
    """Free a worker's cores for others while all that it runs waits for calls of its own; take them back after."""
    node = st.nodes.get(worker.node)
    if node is None:
        return
    running = worker.running
    waits = bool(running) and all(call.children for call in running)
    if waits and worker.id not in node.lent:
        node.lent[worker.id] = worker.capacity.cpus
        st.emit(c.LendCpus(worker.id, True))
        for pool in st.pools.values():
            if len(pool.queue):
                st.touch(pool)
    elif not waits and node.lent.pop(worker.id, None) is not None:
        st.emit(c.LendCpus(worker.id, False))


def committed(st: State, settlements: list[Settlement]) -> None:
    """Tell those who wait: the end of these calls is written down, so it is theirs for good."""
    by_client: dict[str, list[Delivery]] = {}
    for settlement in settlements:
        call = settlement.call
        st.calls.pop(call.id, None)
        st.discard(call.payload)
        call.payload = b""
        by_client.setdefault(call.client, []).append(Delivery(call.id, settlement.result, call.attempt, call))
    for client, deliveries in by_client.items():
        st.emit(c.Deliver(client, deliveries, detached=True))


def stop_overdue(st: State, worker: Worker) -> None:
    """Stop a worker whose attempt is past its timeout and that has not said so itself: it cannot be reached."""
    if worker.state not in {WorkerState.READY, WorkerState.DRAINING, WorkerState.AWAY}:
        return
    if worker.condemned:
        deaf.stop_if_alone(st, worker)
        return
    overdue = [call for call in worker.running if call.state is CallState.LEASED and deaf.is_overdue(st, worker, call)]
    if overdue:
        timeout = worker.pool.options.timeout
        deaf.condemn(st, worker, f"call {overdue[0].id} is past its timeout of {timeout:g} s")
