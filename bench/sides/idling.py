"""What processes that have nothing to do cost."""

from __future__ import annotations

import time

from bench.processes import cpu_seconds, pss, rss


def idling(pids: list[int], seconds: float) -> dict[str, float]:
    """Return the memory of processes in MiB, and their processor time over some seconds in percent of one core."""
    before = sum(cpu_seconds(pid) for pid in pids)
    time.sleep(seconds)
    used = sum(cpu_seconds(pid) for pid in pids) - before
    return {"cpu": 100 * used / seconds, "pss": sum(map(pss, pids)), "rss": sum(map(rss, pids)), "processes": len(pids)}
