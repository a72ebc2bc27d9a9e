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
from stoker.core import events as e
from stoker.core import recovery, settling
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
    st.emit(c.OpenChannel(worker.id, channel.id))


def _lendable(st: State, pool: Pool) -> Worker | None:
    options = pool.options
    # What the server decides about each call (retries, deadlines, who is next) it cannot decide about these.
    plain = options.concurrency == 1 and options.lost_retries > 0 and not options.retries.max_retries
    if not plain or options.recycle_after is not None or options.deadline is not None or pool.retired:
        return None
    if pool.seconds is None or pool.seconds > CALL_MAX_SECONDS or st.recovering_until is not None:
        return None
    if any(len(other.queue) for other in st.pools.values()):
        return None
    idle = [worker for worker in pool.workers.values() if worker.idle]
    return max(idle, key=lambda worker: worker.idle_since, default=None)


def opened(st: State, event: e.ChannelOpened) -> None:
    worker = st.workers.get(event.worker)
    channel = worker.channel if worker is not None else None
    if worker is None or channel is None or channel.id != event.channel or channel.closing:
        return
    channel.used = st.now
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
    pool.bad_starts = 0
    worker.done += len(event.outcomes)
    worker.idle_since = st.now
    if worker.channel is not None:
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
    if worker.channel is not None and st.now - worker.channel.used >= UNUSED_SECONDS:
        close(st, worker)


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
            _stop_if_silent(st, worker, channel)


def _stop_if_silent(st: State, worker: Worker, channel: Channel) -> None:
    def stop() -> None:
        if worker.channel is channel and st.workers.get(worker.id) is worker:
            _stop(st, worker, "it does not let go of a call whose client is gone")

    st.at(st.now + st.limits.cancel_grace, stop)


def _stop(st: State, worker: Worker, why: str) -> None:
    if worker.state is not WorkerState.STOPPING:
        worker.state = WorkerState.STOPPING
        worker.stop_reason = why
        st.emit(c.StopWorker(worker.id, 0.0, why))


def hand_over(st: State, channel_id: str, call: Call) -> bool:
    """Take in a call that was sent down a channel; false where it is to be queued like any other."""
    channel = st.channels.get(channel_id)
    if channel is None:
        # A server that was restarted does not know; workers' reports, for which it waits, have said who runs it.
        return not recovery.is_young(st) and _lost(st, call, "unknown", "its worker has ended")
    if not channel.closed:
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
    for call_id, attempt in zip(event.ids, event.attempts, strict=True):
        _still_runs(st, worker, channel, call_id, attempt)
    _end(st, worker, channel)
    settling.after_lease_ended(st, worker)
    for pool in st.pools.values():
        if len(pool.queue) or pool is worker.pool:
            st.touch(pool)


def _still_runs(st: State, worker: Worker, channel: Channel, call_id: str, attempt: int) -> None:
    call = channel.handed.get(call_id)
    if call is not None and call.state is CallState.QUEUED:
        recovery.give(st, worker, call, attempt, why="after it was sent there directly")
        return
    worker.unknown[call_id] = attempt
    if call is None and not channel.orphaned:
        recovery.hold(st, worker.id, call_id, attempt)  # its client will ask for it in a moment
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
    """A worker has connected again. It closed its channel, and has named what it runs."""
    channel = worker.channel
    if channel is not None:
        _end(st, worker, channel)


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
            call.pool.queue.push(call)
            st.touch(call.pool)
    _forget_later(st, channel)


def _forget_later(st: State, channel: Channel) -> None:
    """Keep it for as long as its client may be away with a call that it will hand over."""

    def forget() -> None:
        st.channels.pop(channel.id, None)

    st.at(st.now + st.limits.client_grace, forget)
