"""What waits for room that no node has: an engine that can grow is told."""

from __future__ import annotations

from stoker.core import gangs
from stoker.core.autoscaler import desired_workers
from stoker.core.placement import Capacity
from stoker.core.state import State

ROOMS_MAX = 100  # what more is wanted is asked for as these come


def unmet(st: State) -> list[Capacity]:
    """Return what each worker would hold that pools want and cannot have now, at most `ROOMS_MAX` of them."""
    rooms: list[Capacity] = []
    for pool in st.pools.values():
        if st.now < pool.start_after or st.recovering_until is not None:
            continue
        is_tried = bool(pool.awaits) and not pool.is_back
        if not len(pool.queue) and not is_tried:
            continue
        demand = pool.demand(st.now)
        options = gangs.in_gangs(pool.options)
        wanted = max(desired_workers(demand, options), 1 if is_tried else 0)
        if options.max_workers is not None:
            wanted = min(wanted, options.max_workers)
        missing = max(0, wanted - demand.workers - demand.starting)
        rooms += [pool.needs] * min(missing * pool.least, ROOMS_MAX - len(rooms))
        if len(rooms) >= ROOMS_MAX:
            break
    return rooms
