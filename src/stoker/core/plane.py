"""The call plane: one state machine that decides everything about calls and workers, and does nothing itself.

`handle` takes events and returns commands. It reads no clock, does no I/O, and is deterministic: the same events at the
same times give the same commands. The shell (`stoker.server`) feeds it and executes what it decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from stoker.core import (
    channels,
    commits,
    fleet,
    gang_attempts,
    handover,
    health,
    intake,
    leasing,
    recovery,
    recycling,
    reports,
    settling,
    stopping,
    trials,
    waiting,
)
from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.pools import Pool, WorkerState
from stoker.core.prefetch import STUCK_SECONDS
from stoker.core.state import Limits, State
from stoker.types import Growth

SWEEP_SECONDS = 0.5  # idle workers and overdue attempts are looked for this often

_HANDLERS: dict[type[Any], Callable[[State, Any], None]] = {
    e.FunctionDeclared: intake.declare,
    e.FunctionRetired: intake.retire,
    e.PoolReplaced: trials.hand_over,
    e.FunctionReplaced: handover.replace,
    e.Submitted: intake.submit,
    e.Restored: intake.restore,
    e.Persisted: commits.persisted,
    e.PersistFailed: commits.persist_failed,
    e.CancelAsked: intake.cancel,
    e.ClientCame: intake.client_came,
    e.ClientLeft: intake.client_left,
    e.StreamRead: intake.stream_read,
    e.ItemsCame: reports.items_came,
    e.AttemptsEnded: reports.attempts_ended,
    e.LeasesRevoked: leasing.revoked,
    e.ChannelAsked: channels.asked,
    e.ChannelOpened: channels.opened,
    e.ChannelClosed: channels.closed,
    e.ChannelUsed: channels.used,
    e.RankGathered: gang_attempts.gathered,
    e.NodeReported: fleet.node_reported,
    e.GrowthChanged: fleet.growth_changed,
    e.NodeDraining: fleet.node_draining,
    e.NodeLost: fleet.node_lost,
    e.WorkerConnected: fleet.worker_connected,
    e.WorkerDisconnected: fleet.worker_disconnected,
    e.WorkerProgress: fleet.worker_progress,
    e.WorkerRefused: fleet.worker_refused,
    e.WorkerGone: fleet.worker_gone,
    e.WorkerChecked: health.checked,
    e.WorkersMeasured: recycling.measured,
    e.RecoveryBegan: recovery.begin,
    e.StopBegan: stopping.begin,
    e.StopEnded: stopping.end,
}


class CallPlane:
    """See the module. ``prefix`` makes worker ids unique over terms of a server."""

    def __init__(
        self,
        *,
        prefix: str = "w",
        limits: Limits | None = None,
        growth: Growth = Growth.NEVER,
        now: float = 0.0,
    ) -> None:
        self.state = State(
            limits=limits or Limits(), growth=growth, prefix=prefix, now=now, started=now, next_sweep=now
        )

    def handle(self, events: Iterable[e.Event], now: float) -> list[c.Command]:
        """Take in what happened until ``now`` (seconds, monotonic) and return what is to be done, in order."""
        st = self.state
        st.now = max(now, st.now)
        if st.timers:
            st.fire_timers()
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(st, event)
        if st.now >= st.next_sweep:
            self._sweep(st)
        while st.dirty:
            dirty, st.dirty = st.dirty, {}
            for pool in dirty.values():
                leasing.lease(st, pool)
                fleet.scale(st, pool)
                waiting.note(pool, st.now)
        return st.flush()

    def next_wakeup(self) -> float | None:
        """Return when `handle` must be called again even if nothing happens; None if it need not."""
        st = self.state
        first = st.timers[0][0] if st.timers else None
        if st.workers or any(len(pool.queue) for pool in st.pools.values()):
            return st.next_sweep if first is None else min(first, st.next_sweep)
        return first

    def _sweep(self, st: State) -> None:
        pause = SWEEP_SECONDS
        for pool in list(st.pools.values()):
            fleet.release_idle(st, pool)
            if pool.awaits:
                handover.look(st, pool)
            if (
                len(pool.queue)
                or pool.retired
                or pool.options.min_workers
                or pool.gangs
                or _renews(pool)
                or pool.awaits
            ):
                st.touch(pool)
            if len(pool.queue):
                pause = min(pause, fleet.QUEUE_SWEEP_SECONDS)
        for worker in st.workers.values():
            if worker.channel is not None:
                channels.close_unused(st, worker)
            if (spec := worker.pool.spec.health) is not None:
                health.look(st, worker, spec)
            if not worker.leased:
                continue
            settling.stop_overdue(st, worker)
            if len(worker.leased) > 1 and worker.state is not WorkerState.STOPPING:
                leasing.revoke_stuck(st, worker)
                pause = min(pause, STUCK_SECONDS)
        st.next_sweep = st.now + pause


def _renews(pool: Pool) -> bool:
    return any(worker.outgoing for worker in pool.workers.values())
