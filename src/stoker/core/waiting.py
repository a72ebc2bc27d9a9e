"""Why the calls of a pool's queue do not run, in words that go on from "it waits"."""

from __future__ import annotations

from stoker.core.pools import Pool, WorkerState


def reason(pool: Pool, now: float) -> str:
    """Return what a pool's queue waits for: ``for 2 cores to be free``."""
    phases = {worker.phase for worker in pool.workers.values() if worker.state is WorkerState.STARTING}
    if "building" in phases:
        return "for its environment to be built"
    if phases:
        return "for a worker to start" + (f", again: {pool.refusal}" if pool.refusal else "")
    if now < pool.start_after:
        return "for the next try, after workers that could not start" + (f": {pool.refusal}" if pool.refusal else "")
    if pool.waiting:
        return pool.waiting
    return "for a worker to be free" if pool.workers else ""


def note(pool: Pool, now: float) -> None:
    """Keep in mind what a pool's queue waits for from now on."""
    log = pool.waits
    if len(pool.queue):
        log.note(now, reason(pool, now))
    elif log.now_for:
        log.note(now, "")
