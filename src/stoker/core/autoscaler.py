"""How many workers a pool should have.

The rule: a worker is worth starting only where it would be ready before the queue drained without it. Everything is
measured: how long a call runs, how long a start takes. Without measurements, every waiting call is worth a worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stoker.types import OptionsSpec

DEFAULT_START_SECONDS = 0.1  # until one was measured: a fork from a running zygote is quicker, a first start slower


@dataclass(frozen=True, slots=True)
class Demand:
    """A pool as it is now. ``seconds`` is a call's measured time (None: no sample); ``oldest`` is how long the oldest
    running attempt has run: a call can be no shorter than that."""

    queued: int
    running: int
    workers: int
    starting: int
    seconds: float | None = None
    start_seconds: float | None = None
    oldest: float = 0.0


def desired_workers(demand: Demand, options: OptionsSpec) -> int:
    """Return how many workers to have, those running and starting included; capacity is placement's business."""
    backlog = demand.queued + demand.running
    wanted = _needed(demand, options, math.ceil(backlog / options.concurrency))
    if backlog:
        wanted += options.buffer_workers
    wanted = max(wanted, options.min_workers)
    if options.max_workers is not None:
        wanted = min(wanted, options.max_workers)
    return wanted


def _needed(demand: Demand, options: OptionsSpec, useful: int) -> int:
    """Return the least number of workers that drain the queue before one more would be ready."""
    have = demand.workers + demand.starting
    if not demand.queued:
        return min(useful, have)
    # Spare workers come on top: counted here, each look at the same queue would add as many again.
    busy = min(math.ceil(demand.running / options.concurrency), have)
    have = max(busy, have - options.buffer_workers)
    if demand.seconds is None or useful <= have:
        return max(1, useful)
    seconds = max(demand.seconds, demand.oldest)
    start = demand.start_seconds or DEFAULT_START_SECONDS
    enough = math.ceil((demand.queued + demand.running) * seconds / (options.concurrency * start))
    return max(1, min(useful, max(have, enough)))
