"""What workers use, looked at now and then while there are any."""

from __future__ import annotations

from stoker.engine.local import processes
from stoker.engine.local.workers import Running
from stoker.protocol.messages import Usage

USAGE_SECONDS = 5.0


def measure(running: list[Running]) -> Usage:
    """Return the seconds of CPU and resident bytes of each worker with all that it started, and remember the peaks."""
    for one in running:
        members = (
            set(one.group.pids()) if one.group.complete else {one.entry.pid, *processes.descendants([one.entry.pid])}
        )
        stats = [stat for pid in members if (stat := processes.read_stat(pid))]
        memory = sum(processes.resident_memory(pid) for pid in members)
        one.cpu_seconds = max(one.cpu_seconds, sum(stat.cpu_seconds for stat in stats))
        one.last_memory = memory
        one.peak_memory = max(one.peak_memory, memory)
    return Usage(
        workers=[one.entry.worker for one in running],
        cpu_seconds=[one.cpu_seconds for one in running],
        memory=[one.last_memory for one in running],
    )
