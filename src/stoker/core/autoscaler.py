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
    """Return the least number at which one more would come too late to help."""
    have = demand.workers + demand.starting
    if not demand.queued:
        return min(useful, have)
    count = max(1, min(have, useful))
    while count < useful and not _drains_soon(demand, options, count):
        count += 1
    return count


def _drains_soon(demand: Demand, options: OptionsSpec, count: int) -> bool:
    if demand.seconds is None:
        return False
    seconds = max(demand.seconds, demand.oldest)
    start = demand.start_seconds or DEFAULT_START_SECONDS
    return (demand.queued + demand.running) * seconds / (count * options.concurrency) <= start
