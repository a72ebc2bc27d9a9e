"""What workers report: attempts that ended, and what generators yielded."""

from __future__ import annotations

from stoker.core import crash_loops, gangs, recovery, settling, streams
from stoker.core import events as e
from stoker.core.state import State
from stoker.types import CallState


def attempts_ended(st: State, event: e.AttemptsEnded) -> None:
    """Take in a worker's reports. What is not its current attempt of a call is dropped."""
    worker = st.workers.get(event.worker)
    if worker is not None and worker.pool.options.gang is not None:
        gangs.attempts_ended(st, worker, event)
        return
    now = st.now
    is_shared = worker is not None and worker.pool.mixture is not None and worker.pool.options.concurrency > 1
    begun = {call.id for call in worker.running} if is_shared and worker is not None else set()
    for call_id, attempt, result in zip(event.ids, event.attempts, event.results, strict=True):
        call = worker.leased.pop(call_id, None) if worker is not None else None
        if call is None or worker is None:
            recovery.result_of_unknown(st, event.worker, call_id, attempt, result)
            continue
        worker.done += 1
        if call.attempt != attempt or call.state is not CallState.LEASED or call.worker is not worker:
            st.discard(result.payload)
            continue
        if result.seconds:
            call.pool.measure(result.seconds)
        settling.finish(st, call, result)
    if worker is not None:
        worker.head_since = now
        for call in worker.running if is_shared else ():
            if call.id not in begun and call.worker is worker:
                call.leased_at = now  # it has a place now
        pool = worker.pool
        pool.pace.ended(len(event.ids), now=now, others_wait=len(pool.queue) > 0, slots=lambda: pool.slots)
        crash_loops.worked(worker.pool)
        settling.after_lease_ended(st, worker)


def items_came(st: State, event: e.ItemsCame) -> None:
    """Pass on what a generator yielded, without what its reader has seen of an earlier attempt."""
    call = st.calls.get(event.id)
    if call is not None and call.state is CallState.LEASED:
        worker = call.worker
        if call.attempt == event.attempt and worker is not None and worker.id == event.worker:
            streams.pass_on(st, call, event.attempt, event.first, event.payloads)
            return
    elif recovery.hold_items(st, event, call):
        return
    for payload in event.payloads:
        st.discard(payload)
