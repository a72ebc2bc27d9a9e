"""Crash loops: workers of a pool that end, one after the other, before they have done anything, or in their calls.

The next start waits, longer with each such end. Until a call has been run, or a worker has lived for a while, people
are told why and when the next one is tried; who comes over HTTP meanwhile is refused at once, with the time to wait.

A call that takes its workers down says nothing about the others. So what it does again is not counted here: the call's
own retries bound that, and wait by themselves (`retries.loss_delay`). Counted are ends that no one call can be behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from stoker.core.calls import Call, stoker_error
from stoker.core.disclosure import DETAILS, PLACE, public
from stoker.core.pools import Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.types import ErrorInfo

KINDS = frozenset({"StartupError", "ImageBuildError", "InterpreterNotFound"})  # of errors that a start fails with
BACKOFF_MAX_SECONDS = 30.0
DEATHS_BACKOFF_MAX_SECONDS = 5.0  # for those that start well: the next call, which is another one, may be good
FIRST_PAUSE_SECONDS = 0.25  # after the second in a row, and twice as much after each that follows
STEADY_SECONDS = 30.0  # of a worker that lives for so long after its start nobody says that it does not start
REFUSED_FROM = 2  # the first may have had any reason: it is tried again at once
WAITED_SECONDS = 1.0  # for a start after workers that ended in their calls: to wait so long is no worse than to retry
WORDS_MAX = 600  # characters of a reason, for people: what a resolver says of a version that is not there fits
KEPT_CHARS = 16_000  # of a whole one, of which people are told the beginning


def of_start(error: ErrorInfo, *, label: str) -> ErrorInfo:
    """Return an error as a start fails with it.

    What a start has come across, a blob that is gone or a disk that is full, would be taken for something that whoever
    calls has named, over HTTP for a 404. Its own words name places of a machine: they are the details.
    """
    if error.type_name in KINDS or "." in error.type_name:
        return error
    if error.type_name == "NotFound":
        why = "Files that it needs are not there any more: deploy it, or run its program, again."
    elif error.type_name == "StoreError":
        why = "Files that it needs could not be read or written."
    else:
        why = f"That failed with {error.type_name}."
    message = f"{label} could not be started. {why}{DETAILS}\n{error.message}"
    return replace(error, type_name="StartupError", message=message, mro=["StartupError"])


def failed(st: State, pool: Pool, why: str, *, kind: str = "StartupError") -> None:
    """Let the next start wait, longer with each that failed in a row; ``kind`` is the error's type."""
    pool.bad_starts += 1
    pool.trouble_kind = kind
    pool.trouble = why[:KEPT_CHARS]
    _put_off(st, pool, pool.bad_starts, BACKOFF_MAX_SECONDS)


def died(st: State, pool: Pool, calls: Iterable[Call], why: str) -> None:
    """A worker has ended by itself while it ran these calls."""
    ran = frozenset(call.id for call in calls)
    suspects = pool.suspects & ran
    if suspects:
        pool.suspects = suspects
        return
    pool.suspects = ran
    pool.deaths += 1
    pool.trouble_kind = "StartupError"
    pool.trouble = why[:KEPT_CHARS]
    _put_off(st, pool, pool.deaths, DEATHS_BACKOFF_MAX_SECONDS)


def in_short(why: str, *, label: str) -> str:
    """Return a reason as one line: its first, and where that ends in a colon, what it announces.

    What is announced may be a list (of Pythons, of a resolver's words): its lines are joined. A traceback is left out,
    and so is the function's label at the beginning, since whoever shows a reason names it first.
    """
    first, _, rest = why.removeprefix(label).removeprefix(":").lstrip(" ").partition("\n")
    if first.endswith(PLACE):
        first = first.removesuffix(PLACE)
    elif first.endswith(":"):
        lines = [" ".join(line.split()) for line in rest.splitlines() if line.strip()]
        first = f"{first} {' · '.join(lines)}"
    if len(first) <= WORDS_MAX:
        return first
    return f"{first[:WORDS_MAX].rpartition(' ')[0] or first[:WORDS_MAX]} …"


def _put_off(st: State, pool: Pool, times: int, most: float) -> None:
    pause = 0.0 if times < REFUSED_FROM else min(most, FIRST_PAUSE_SECONDS * 2.0 ** min(times - 2, 30))
    pool.start_after = st.now + pause
    st.at(pool.start_after, lambda: st.touch(pool))


def at_once(pool: Pool, wanted: int) -> int:
    """Return how many of these workers may be started together: where calls take them down, one tries for all."""
    return min(wanted, 1) if pool.deaths >= REFUSED_FROM else wanted


def tried(st: State, pool: Pool) -> None:
    """A worker is started where those before ended in their calls: the next one waits as if it had ended as well."""
    if pool.deaths >= REFUSED_FROM:
        _put_off(st, pool, pool.deaths, DEATHS_BACKOFF_MAX_SECONDS)


def worked(pool: Pool) -> None:
    """Something was run: whatever failed before is over."""
    pool.bad_starts, pool.trouble = 0, ""
    if pool.deaths:
        pool.deaths, pool.suspects, pool.start_after = 0, frozenset(), 0.0


def started(st: State, worker: Worker) -> None:
    """A worker is ready; whether it stays is seen in a while."""
    if not (worker.pool.bad_starts or worker.pool.deaths):
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
    if not pool.bad_starts and pool.deaths < REFUSED_FROM:
        return ""
    left = pause(pool, now)
    when = f"the next one in {left:.1f} s" if left else "the next one is tried when it is needed"
    if any(worker.state is WorkerState.STARTING for worker in pool.workers.values()):
        when = "another one starts"
    elif any(worker.state is WorkerState.READY for worker in pool.workers.values()):
        when = "another one has just started"
    return f"{_what_they_did(pool)}, {when}: {in_short(pool.trouble, label=pool.spec.label)}"


def _what_they_did(pool: Pool) -> str:
    count = pool.bad_starts + pool.deaths
    if not pool.bad_starts:
        what = "ended in its call" if count == 1 else "ended in their calls"
    else:
        what = "did not start or stay" + (", or ended in their calls" if pool.deaths else "")
    return f"its last {'worker' if count == 1 else f'{count} workers'} {what}"


def refusal(st: State, key: str, *, now: float) -> ErrorInfo | None:
    """Return why a request is not even queued: nothing could run it before the next start, which waits.

    It goes to whoever has sent that, so what workers have printed is not in it.
    """
    pool = st.pools.get(key)
    if pool is None or max(pool.bad_starts, pool.deaths) < REFUSED_FROM or not pause(pool, now):
        return None
    if pool.role:
        return None  # what waits for a version on trial is run by the current one, should it fail: see `trials`
    there = {WorkerState.READY, WorkerState.AWAY} | ({WorkerState.STARTING} if pool.deaths else set())
    if any(worker.state in there for worker in pool.workers.values()):
        return None  # of one that starts it is known that it does, where they only end in their calls
    left = pause(pool, now)
    if not pool.bad_starts and left <= WAITED_SECONDS:
        return None
    message = (
        f"{pool.spec.label} cannot answer: {_what_they_did(pool)}. The next one is "
        f"tried in {left:.1f} s. The last one: {in_short(public(pool.trouble), label=pool.spec.label)}"
    )
    return stoker_error(pool.trouble_kind, message, {"function": pool.spec.label, "retry_after": round(left, 3)})
