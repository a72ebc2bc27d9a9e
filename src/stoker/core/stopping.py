"""A server that is told to stop: nothing more is leased, and what it interrupts is written down as that.

Being interrupted so is no loss of the call's: it counts against nothing, and shows in the call's timeline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core import settling
from stoker.core.calls import Call, Result, stoker_error
from stoker.core.state import State
from stoker.types import CallState, Outcome

INTERRUPTED = "interrupted"
_OURSELVES = "(this server stops)"  # a node that never reports: what keeps leases back after a restart does so here


def begin(st: State, _: e.StopBegan) -> None:
    """Lease nothing more; what runs may still end by itself within its grace."""
    st.recovering_nodes = {_OURSELVES}
    st.recovering_until = math.inf


def end(st: State, event: e.StopEnded) -> None:
    """Workers have ended: note which attempts ended with theirs, and fail the calls that must not run twice."""
    interrupted: list[Call] = []
    for worker in [st.workers[name] for name in event.workers if name in st.workers]:
        for call in worker.running:
            if call.state is not CallState.LEASED or call in interrupted:
                continue  # other ranks of a gang have it too
            if not call.pool.options.lost_retries:
                _fail(st, call)
            elif call.detached:
                call.note_run()
                call.note(st.now, INTERRUPTED, f"attempt {call.attempt}: the server was stopped; it is run again")
                interrupted.append(call)
    if interrupted:
        st.writes.append(c.PersistProgress(interrupted))


def attempts_in(history: Iterable[tuple[float, str, str]]) -> int:
    """Return how many attempts were interrupted so: they have their numbers, and count as nothing."""
    return sum(1 for _, event, _ in history if event == INTERRUPTED)


def _fail(st: State, call: Call) -> None:
    label = call.label
    message = (
        f"Call {call.id} of {label}: the server was stopped while it ran, and it may not run twice (lost_retries=0). "
        "See what it had done before you call it again."
    )
    call.pool.failed += 1
    error = stoker_error("WorkerLost", message, {"call_id": call.id, "function": label})
    settling.settle(st, call, CallState.FAILED, Result(Outcome.ERROR, error=error))
