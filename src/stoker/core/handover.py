"""A new version of a function takes over once a worker of it is ready; until then the one before goes on.

So it is where the version before has a worker, and the new one has none although it was waited for: its start takes
long, or fails. Where nothing runs, or where there is no room for both, the new one takes over at once.
"""

from __future__ import annotations

from stoker.core import channels
from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.pools import Pool, WorkerState
from stoker.core.state import State

NO_ROOM = "there was no room to start it beside the version before"
IDLE = "no worker of the version before was running"
GANG = "a gang takes over without a trial"
RECREATE = "with strategy=recreate it starts only once the version before has ended"
ENDED = "the last worker of the version before ended meanwhile"


def replace(st: State, event: e.FunctionReplaced) -> None:
    """Let a version take the place of the one before: now, or once it is ready."""
    old, new = st.pools.get(event.key), st.pools.get(event.by)
    if old is None:  # one that takes turns comes after what it replaces has been retired, which may be gone by then
        if new is not None and new.is_alone and not _is_warm(new):
            new.untried = RECREATE
        return
    before = st.pools.get(old.awaits)
    if before is not None:  # it has never been ready: what it was to take over from goes on for the newest
        old.awaits = before.goes_on_for = ""
        retire(st, old)
        old = before
    if new is None or not _waits(old, new):
        if new is not None and not _is_warm(new):
            new.untried = RECREATE if new.is_alone else GANG if _is_warm(old) else IDLE
        retire(st, old)
        return
    new.awaits, old.goes_on_for = old.key, new.key
    st.touch(new)


def _waits(old: Pool, new: Pool) -> bool:
    if new.is_alone or old.options.gang is not None or new.options.gang is not None:
        return False
    return _is_warm(old) and not _is_warm(new)


def _is_warm(pool: Pool) -> bool:
    """Tell whether a worker of it takes calls."""
    return any(worker.state in {WorkerState.READY, WorkerState.AWAY} for worker in pool.workers.values())


def finish(st: State, new: Pool) -> None:
    """Have a version take over: its calls go to it from now on, and the one before drains."""
    old = st.pools.get(new.awaits)
    new.awaits = ""
    if old is not None and old.goes_on_for == new.key:
        old.goes_on_for = ""
        retire(st, old)
    st.emit(c.TellTookOver(new.key))


def retire(st: State, pool: Pool) -> None:
    """No new calls will come: the pool drains and goes; a version that waited to take over from it does."""
    pool.retired = True
    if pool.awaits:
        finish(st, pool)
    newer = st.pools.get(pool.goes_on_for)
    pool.goes_on_for = ""
    if newer is not None and newer.awaits == pool.key:
        newer.awaits = ""
        st.emit(c.TellTookOver(newer.key))
    channels.reclaim(st, pool)
    st.touch(pool)


def look(st: State, new: Pool) -> None:
    """Let a version take over from one that nobody uses any more, unless it cannot be started itself."""
    old = st.pools.get(new.awaits)
    if old is None or (not old.workers and not old.waiting_calls and not new.bad_starts):
        new.untried = ENDED
        finish(st, new)
