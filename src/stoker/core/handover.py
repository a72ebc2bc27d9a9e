"""A new version of a function takes over once a worker of it is ready; until then the one before goes on.

So it is where the version before is known to start: it has a worker, or had one. The new one has none although it was
waited for while its start takes long, or fails. Where nobody has ever seen the one before ready, or where there is no
room for both, the new one takes over at once.
"""

from __future__ import annotations

from stoker.core import channels
from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State

TRIAL_IDLE_SECONDS = 1.0  # for which a worker of another function has had nothing to do that ends for a trial
ROOM_SECONDS = 2.0  # for which a trial waits for such a worker: more than they need to have been idle for
NO_ROOM = "there was no room to start it beside the version before"
GANG = "a gang takes over without a trial"
RECREATE = "with strategy=recreate it starts only once the version before has ended"


def replace(st: State, event: e.FunctionReplaced) -> None:
    """Let a version take the place of the one before: now, or once it is ready."""
    old, new = st.pools.get(event.key), st.pools.get(event.by)
    if old is None:  # one that takes turns comes after what it replaces has been retired, which may be gone by then
        if new is not None and new.is_alone and not is_warm(new):
            new.untried = RECREATE
        return
    before = st.pools.get(old.awaits)
    if before is not None:  # it has never been ready: what it was to take over from goes on for the newest
        old.awaits = before.goes_on_for = ""
        retire(st, old)
        _call_off(st, old)
        old = before
    was_good = before is not None or old.was_ready or is_warm(old) or (event.is_older and not old.bad_starts)
    if new is None or new.is_alone or not was_good or is_warm(new) or old.options.gang or new.options.gang:
        if new is not None and not is_warm(new) and (was_good or old.untried):
            new.untried = RECREATE if new.is_alone else GANG if was_good else old.untried
        retire(st, old)
        return
    new.awaits, old.goes_on_for = old.key, new.key
    new.is_back = bool(event.same_as) and event.same_as == old.spec.version
    st.touch(new)


def is_warm(pool: Pool) -> bool:
    """Tell whether a worker of it takes calls."""
    return any(worker.state in {WorkerState.READY, WorkerState.AWAY} for worker in pool.workers.values())


def _call_off(st: State, pool: Pool) -> None:
    """Stop the starts of a version that nobody waits for any more: the one that is waited for may need their room."""
    for worker in pool.workers.values() if not pool.waiting_calls else ():
        if worker.state is WorkerState.STARTING:
            worker.state = WorkerState.STOPPING
            worker.stop_reason = "its version was called off before it was ready"
            st.emit(c.StopWorker(worker.id, st.limits.stop_grace, worker.stop_reason))


def finish(st: State, new: Pool) -> None:
    """Have a version take over: its calls go to it from now on, and the one before drains."""
    old = st.pools.get(new.awaits)
    new.awaits, new.is_back = "", False
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
    """Let a version take over where the one before is gone."""
    if new.awaits not in st.pools:
        finish(st, new)


def may_wait(new: Pool) -> bool:
    """Tell whether a version is no better than the one that goes on: without room it waits, and takes nothing over."""
    return new.is_back or new.bad_starts > 0


def has_no_room(new: Pool, now: float) -> bool:
    """Tell whether a version that has failed to start gets no room for another try in the time that it is given."""
    starts = any(worker.state is WorkerState.STARTING for worker in new.workers.values())
    is_put_off = bool(new.wanted_since) and now - new.wanted_since > ROOM_SECONDS
    return new.bad_starts > 0 and is_put_off and not starts


def may_end(st: State, worker: Worker, trial: Pool) -> bool:
    """Tell whether an idle worker may end for a version to be tried in its place: it had nothing to do for a while, so
    that calls do not find it gone."""
    return st.now - worker.idle_since >= TRIAL_IDLE_SECONDS and not is_kept(worker, trial)


def is_kept(worker: Worker, trial: Pool) -> bool:
    """Tell whether it is the one worker that the version before goes on with, whatever is tried."""
    if worker.pool.goes_on_for != trial.key:
        return False
    ready = [other for other in worker.pool.workers.values() if other.state is WorkerState.READY]
    return worker is max(ready, key=lambda other: (not other.idle, other.idle_since), default=worker)


def is_tried(worker: Worker) -> bool:
    """Tell whether a version waits for this worker to be ready: it may end then, for the next one to be tried."""
    return worker.state is WorkerState.STARTING and bool(worker.pool.awaits)
