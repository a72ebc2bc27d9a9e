"""Crash loops: workers of a pool that end, one after the other, before they have done anything.

The next start waits, longer with each such end. Until a call has been run, or a worker has lived for a while, people
are told why and when the next one is tried; who comes over HTTP meanwhile is refused at once, with the time to wait.
"""

from __future__ import annotations

from stoker.core.calls import stoker_error
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.types import ErrorInfo

BACKOFF_MAX_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.25  # after the second in a row, and twice as much after each that follows
STEADY_SECONDS = 30.0  # of a worker that lives for so long after its start nobody says that it does not start
REFUSED_FROM = 2  # the first may have had any reason: it is tried again at once
WORDS_MAX = 300  # of a reason, for people


def failed(st: State, pool: Pool, why: str) -> None:
    """Let the next start wait, longer with each that failed in a row."""
    pool.bad_starts += 1
    pool.trouble = why.partition("\n")[0][:WORDS_MAX]
    pause = 0.0 if pool.bad_starts == 1 else FIRST_PAUSE_SECONDS * 2.0 ** min(pool.bad_starts - 2, 30)
    pool.start_after = st.now + min(BACKOFF_MAX_SECONDS, pause)
    st.at(pool.start_after, lambda: st.touch(pool))


def worked(pool: Pool) -> None:
    """Something was run: whatever failed before is over."""
    pool.bad_starts, pool.trouble = 0, ""


def started(st: State, worker: Worker) -> None:
    """A worker is ready; whether it stays is seen in a while."""
    if not worker.pool.bad_starts:
        return

    def has_stayed() -> None:
        if st.workers.get(worker.id) is worker and worker.state is WorkerState.READY and not worker.failed_checks:
            worked(worker.pool)

    st.at(st.now + STEADY_SECONDS, has_stayed)


def pause(pool: Pool, now: float) -> float:
    """Return the seconds until the next start is tried, where one waits for that."""
    return max(0.0, pool.start_after - now)


def told(pool: Pool, now: float) -> str:
    """Return what people are told of a pool whose workers do not start, or do not stay; empty for others."""
    if not pool.bad_starts:
        return ""
    left = pause(pool, now)
    when = f"the next one in {left:.1f} s" if left else "the next one is tried when it is needed"
    if any(worker.state is WorkerState.STARTING for worker in pool.workers.values()):
        when = "another one starts"
    elif any(worker.state is WorkerState.READY for worker in pool.workers.values()):
        when = "another one has just started"
    times = "its last worker" if pool.bad_starts == 1 else f"its last {pool.bad_starts} workers"
    return f"{times} did not start or stay, {when}: {pool.trouble}"


def refusal(st: State, key: str, *, now: float) -> ErrorInfo | None:
    """Return why a request is not even queued: nothing could run it before the next start, which waits."""
    pool = st.pools.get(key)
    if pool is None or pool.bad_starts < REFUSED_FROM or not pause(pool, now):
        return None
    if pool.role:
        return None  # what waits for a version on trial is run by the current one, should it fail: see `trials`
    if any(worker.state in {WorkerState.READY, WorkerState.AWAY} for worker in pool.workers.values()):
        return None
    left = pause(pool, now)
    message = (
        f"{pool.spec.label} cannot answer: its last {pool.bad_starts} workers did not start or stay. The next one is "
        f"tried in {left:.1f} s. The last one: {pool.trouble}"
    )
    return stoker_error("StartupError", message, {"function": pool.spec.label, "retry_after": round(left, 3)})
