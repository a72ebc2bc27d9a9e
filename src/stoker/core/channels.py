"""Channels: a worker lent to one client, whose single calls go straight there and back, past the server.

A client that makes one short call after another asks for one. While a worker is lent it is leased nothing; it is taken
back as soon as somebody else's call waits, when it is not used, or when its pool or client goes. What is done on a
channel is reported in bulk.

A call that is not answered at once is *handed over*: the client submits it, naming the channel, and the channel is
closed. Only the worker knows then where the call is. It says so when it has closed: it runs, and ends like any leased
attempt; it was answered, and is forgotten here; or it was never read, and is queued. A worker that ended before it
could say so has lost it.
"""

from __future__ import annotations

from stoker.core import commands as c
from stoker.core import crash_loops, recovery, settling
from stoker.core import events as e
from stoker.core.calls import Call
from stoker.core.pools import Channel, Pool, Worker, WorkerState
from stoker.core.state import State
from stoker.types import CallState, Outcome

CALL_MAX_SECONDS = (
    0.002  # of a pool whose workers are lent: with longer calls a round trip through the server is little
)
UNUSED_SECONDS = 1.0  # after which a worker is taken back


def asked(st: State, event: e.ChannelAsked) -> None:
    """Lend the client an idle worker, if there is one that nobody else could use."""
    pool = st.pools.get(event.function)
    worker = _lendable(st, pool) if pool is not None else None
    if worker is None:
        st.emit(c.TellChannel(event.client, event.function))
        return
    channel = Channel(f"{worker.id}.{st.token()}", event.client, now=st.now)
    st.channels[channel.id] = channel
    worker.channel = channel
    st.emit(c.OpenChannel(worker.id, channel.id, channel.client))


def _lendable(st: State, pool: Pool) -> Worker | None:
    options = pool.options
    # What the server decides about each call (retries, deadlines, who is next) it cannot decide about these.
    plain = options.concurrency == 1 and options.lost_retries > 0 and not options.retries.max_retries
    if pool.spec.is_async or pool.spec.kind == "generator" or options.gang is not None or options.batch is not None:
        return None
    recycles = options.recycle_after is not None or options.recycle_memory is not None
    if not plain or recycles or options.deadline is not None or pool.retired:
        return None
    if pool.is_divided or pool.role:
        return None
    if pool.seconds is None or pool.seconds > CALL_MAX_SECONDS or st.recovering_until is not None:
        return None
    if any(len(other.queue) for other in st.pools.values()):
        return None
    idle = [worker for worker in pool.workers.values() if worker.idle and not worker.is_remote]
    return max(idle, key=lambda worker: worker.idle_since, default=None)


def opened(st: State, event: e.ChannelOpened) -> None:
    worker = st.workers.get(event.worker)
    channel = worker.channel if worker is not None else None
    if channel is None or channel.id != event.channel:
        st.emit(c.CloseChannel(event.worker, event.channel))  # it ended while the order was on its way
    if worker is None or channel is None or channel.id != event.channel or channel.closing:
        return
    channel.opened, channel.used = True, st.now
    st.emit(c.TellChannel(channel.client, worker.pool.key, channel.id, event.address, event.key))


def used(st: State, event: e.ChannelUsed) -> None:
    """Count what a client did with the worker it was lent."""
    worker = st.workers.get(event.worker)
    if worker is None or not event.outcomes:
        return
    pool = worker.pool
    good = sum(1 for outcome in event.outcomes if outcome == Outcome.VALUE)
    pool.done += good
    pool.failed += len(event.outcomes) - good
    pool.measure(sum(event.seconds) / len(event.seconds))
    crash_loops.worked(pool)
    worker.done += len(event.outcomes)
    worker.idle_since = st.now
    if worker.channel is not None and worker.channel.id == event.channel:
        worker.channel.used = st.now
        if pool.seconds is not None and pool.seconds > CALL_MAX_SECONDS:
            close(st, worker)


def close(st: State, worker: Worker) -> None:
    """Take a worker back; it is ours when it has said so."""
    channel = worker.channel
    if channel is not None and not channel.closing:
        channel.closing = True
        st.emit(c.CloseChannel(worker.id, channel.id))


def close_unused(st: State, worker: Worker) -> None:
    """Take a worker back that nobody uses; stop one that cannot be asked about a call which is past its timeout."""
    channel = worker.channel
    if channel is None:
        return
    if st.now - channel.used >= UNUSED_SECONDS:
        close(st, worker)
    timeout = worker.pool.options.timeout
    if any(call.leased_at < st.now - timeout - st.limits.timeout_grace for call in channel.handed.values()):
        _stop(st, worker, f"a call is past its timeout of {timeout:g} s, and it does not answer")


def reclaim(st: State, pool: Pool) -> None:
    """Take back every worker of a pool."""
    for worker in pool.workers.values():
        close(st, worker)


def reclaim_all(st: State) -> None:
    """Take back every worker: somebody waits for a place."""
    for worker in st.workers.values():
        close(st, worker)


def client_gone(st: State, client: str) -> None:
    """Take back what a client was lent that will not come back, and end what it has running there."""
    for worker in st.workers.values():
        channel = worker.channel
        if channel is not None and channel.client == client:
            channel.orphaned = True
            close(st, worker)
            _stop_if_silent(st, worker, channel, grace=st.limits.cancel_grace)
    for call_id, held in list(st.held.items()):
        runs = st.workers.get(held.worker)
        if held.client == client and runs is not None and call_id in runs.unknown:
            _cancel(st, runs, call_id, held.attempt)


def cancelled(st: State, call: Call, *, grace: float) -> None:
    """A call was cancelled: where only a worker knows whether it runs, that worker has so long to say so."""
    for worker in st.workers.values():
        channel = worker.channel
        if channel is not None and call.id in channel.handed:
            _stop_if_silent(st, worker, channel, grace=grace)


def _stop_if_silent(st: State, worker: Worker, channel: Channel, *, grace: float) -> None:
    def stop() -> None:
        if worker.channel is channel and st.workers.get(worker.id) is worker:
            _stop(st, worker, "it does not let go of a call that was cancelled")

    st.at(st.now + grace, stop)


def _stop(st: State, worker: Worker, why: str) -> None:
    if worker.state is not WorkerState.STOPPING:
        worker.state, worker.condemned, worker.stop_reason = WorkerState.STOPPING, why, why
        st.emit(c.StopWorker(worker.id, 0.0, why))


def of(st: State, event: e.Submitted) -> Channel | None:
    """Return the channel that a call says it was sent down before, where that is so."""
    channel = st.channels.get(event.channel) if event.channel else None
    plain = len(event.ids) == 1 and event.kind == "call" and not event.detached
    return channel if channel is not None and plain and channel.client == event.client else None


def hand_over(st: State, channel: Channel, call: Call) -> bool:
    """Take in a call that was sent down a channel; false where it is to be queued like any other."""
    if not channel.closed:
        call.leased_at = st.now
        channel.handed[call.id] = call
        worker = next((w for w in st.workers.values() if w.channel is channel), None)
        if worker is not None:
            close(st, worker)
        return True
    if channel.end is not None:
        return _lost(st, call, *channel.end)
    if call.id == channel.answered:
        settling.forget(st, call)
        return True
    return False


def _lost(st: State, call: Call, cause: str, detail: str) -> bool:
    call.attempt = 1
    settling.lost(st, call, cause=cause, detail=detail)
    return True


def closed(st: State, event: e.ChannelClosed) -> None:
    """Have a worker back, with what it says of the calls that came by its channel."""
    worker = st.workers.get(event.worker)
    channel = worker.channel if worker is not None else None
    if worker is None or channel is None or channel.id != event.channel:
        return
    channel.answered = event.answered
    if not channel.opened:
        st.emit(c.TellChannel(channel.client, worker.pool.key))
    for call_id, attempt in zip(event.ids, event.attempts, strict=True):
        if call_id.startswith(f"{channel.client}."):
            _still_runs(st, worker, channel, call_id, attempt)
    _end(st, worker, channel)
    settling.after_lease_ended(st, worker)
    for pool in st.pools.values():
        if len(pool.queue) or pool is worker.pool:
            st.touch(pool)


def _still_runs(st: State, worker: Worker, channel: Channel, call_id: str, attempt: int) -> None:
    call = channel.handed.get(call_id)
    if call is not None and call.state is CallState.QUEUED:
        recovery.give(st, worker, call, attempt, why="its client waited for it there")
        return
    worker.unknown[call_id] = attempt
    if call is None and not channel.orphaned:
        # Its client will ask for it in a moment.
        recovery.hold(st, worker.id, call_id, attempt).client = channel.client
    else:
        _cancel(st, worker, call_id, attempt)


def _cancel(st: State, worker: Worker, call_id: str, attempt: int) -> None:
    """End an attempt whose call was cancelled, or has no client any more."""
    grace = st.limits.cancel_grace
    st.emit(c.CancelRunning(worker.id, [call_id], [attempt], grace, "its call was cancelled"))

    def kill_if_deaf() -> None:
        if call_id in worker.unknown and st.workers.get(worker.id) is worker:
            _stop(st, worker, f"it ignored the cancellation of {call_id}")

    st.at(st.now + grace, kill_if_deaf)


def worker_back(st: State, worker: Worker) -> None:
    """A worker has connected again. It closed its channel, and has named what it runs.

    What it has finished meanwhile it sends now: a call that was handed over and is not named waits for that.
    """
    channel = worker.channel
    if channel is None:
        return
    handed, channel.handed = list(channel.handed.values()), {}
    _end(st, worker, channel)

    def queue_strays() -> None:
        for call in handed:
            if st.calls.get(call.id) is call and call.state is CallState.QUEUED and not call.queued:
                _queue(st, call)

    st.at(st.now + recovery.STRAY_SECONDS, queue_strays)


def worker_gone(st: State, worker: Worker, *, cause: str, detail: str) -> list[Call]:
    """Return the calls that a worker which has ended was sent, as far as is known."""
    channel = worker.channel
    if channel is None:
        return []
    worker.channel = None
    channel.closed, channel.end = True, (cause, detail)
    _forget_later(st, channel)
    handed, channel.handed = list(channel.handed.values()), {}
    return [call for call in handed if call.state is CallState.QUEUED]


def _end(st: State, worker: Worker, channel: Channel) -> None:
    """Note that a channel is closed; deal with the handed-over calls that do not run."""
    worker.channel = None
    worker.idle_since = st.now
    channel.closed = True
    handed, channel.handed = channel.handed, {}
    for call in handed.values():
        if call.state is not CallState.QUEUED:
            continue
        if call.id == channel.answered:
            settling.forget(st, call)
        else:
            _queue(st, call)
    _forget_later(st, channel)


def _queue(st: State, call: Call) -> None:
    """It was never read: nothing has come of it yet."""
    call.leased_at = 0.0
    call.pool.queue.push(call)
    st.touch(call.pool)


def _forget_later(st: State, channel: Channel) -> None:
    """Keep it for as long as its client may be away with a call that it will hand over."""

    def forget() -> None:
        st.channels.pop(channel.id, None)

    st.at(st.now + st.limits.client_grace, forget)
