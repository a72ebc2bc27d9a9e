"""The mark by which everything that a worker started is known, even what has left its session and lost its parent.

It is a variable in the environment with which a process was started, as ``/proc/<pid>/environ`` shows it. Programs
that a worker runs inherit it like any variable. A forked worker still shows its zygote's environment, so the zygote is
started with room for a name there, and the agent writes the worker's into the copy of that page that the fork made;
what the worker forks in turn inherits it.
"""

from __future__ import annotations

import os
from pathlib import Path

from stoker.engine.local import processes
from stoker.engine.local.config import WORKER_MARKER

BLANK = "_" * 64  # longer than any worker's id
ENV_START_FIELD = 49 - 2  # of /proc/<pid>/stat, counted behind the name in parentheses


def mark(pid: int, worker: str) -> bool:
    """Write a forked worker's id over the blank; False where the kernel does not let us (it is gone, ptrace is off)."""
    needle = f"{WORKER_MARKER}={BLANK}\0".encode()
    try:
        start, end = _environment_range(pid)
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            at = memory.read(end - start).find(needle)
            if at < 0:
                return False
            memory.seek(start + at)
            memory.write(f"{WORKER_MARKER}={worker.ljust(len(BLANK), '_')}".encode())
    except (OSError, ValueError):
        return False
    return True


def _environment_range(pid: int) -> tuple[int, int]:
    text = Path(f"/proc/{pid}/stat").read_bytes()
    fields = text[text.rindex(b")") + 2 :].split()
    return int(fields[ENV_START_FIELD]), int(fields[ENV_START_FIELD + 1])


def marked(worker: str) -> list[int]:
    """Return the processes that bear a worker's mark."""
    exact = f"{WORKER_MARKER}={worker}"
    padded = f"{WORKER_MARKER}={worker.ljust(len(BLANK), '_')}"
    return processes.with_environment({os.fsencode(exact), os.fsencode(padded)})
