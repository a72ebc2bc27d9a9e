"""Who is refused where a pool's queue is full: whoever has most calls waiting, and not who comes with a few.

A queue that simply refuses whoever comes last would belong to the client that asks most often. So a newcomer takes the
place of the newest call of the client with most of them (longest queue drop): who floods has its own calls refused, and
the queue stays as long as it is. What was promised to be kept (detached calls) or comes in windows (maps) stays; where
there is nothing else, a client without any gets one place past the bound.
"""

from __future__ import annotations

from stoker.core import admission, settling
from stoker.core import events as e
from stoker.core.admission import Load
from stoker.core.calls import Call, Result, stoker_error
from stoker.core.pools import Pool
from stoker.core.state import State
from stoker.types import CallState, Outcome

LOOKED_AT_CALLS = 16  # of a client's newest, for one that may be refused: a look costs no more, whatever waits


def make_room(st: State, pool: Pool, event: e.Submitted, *, taken: int, wanted: int) -> int:
    """Refuse calls of clients that have more waiting; return for how many of the event's there is room now.

    ``taken``: how many of the event's calls there was room for.
    """
    if event.kind == "map" and not event.detached:
        return 0
    queue = pool.queue
    mine = queue.waiting_of(event.client) + taken
    made = 0
    while made < wanted:
        victim = _victim(pool, event, over=mine + made + 1)
        if victim is None:
            break
        message = (
            f"{pool.spec.label} has {pool.waiting_calls} calls waiting, and max_pending={pool.options.max_pending} are "
            "held. This one had to make room for a client that has fewer of them."
        )
        wait = round(admission.expected_wait(pool.load()) or 1.0, 3)
        error = stoker_error("Overloaded", message, {"retry_after": wait})
        settling.settle(st, victim, CallState.REFUSED, Result(Outcome.ERROR, error=error))
        made += 1
    if not made and not mine and wanted and queue.longest(over=1):
        return 1
    return made


def _victim(pool: Pool, event: e.Submitted, *, over: int) -> Call | None:
    def fits(call: Call) -> bool:
        return call.kind != "map" and not call.detached and not call.attempt and call.priority <= event.priority

    for client in pool.queue.longest(over=over):
        if client != event.client:
            found = pool.queue.newest(client, among=LOOKED_AT_CALLS, fits=fits)
            if found is not None:
                return found
    return None


def fair_load(pool: Pool, client: str) -> Load:
    """Return a pool's load as one more call of this client meets it: others' calls count up to its own turn."""
    load = pool.load()
    before = pool.queue.before(client) + pool.backoff + pool.accepting
    return Load(min(load.waiting, before), load.slots, load.seconds, load.pace, load.quickest)
