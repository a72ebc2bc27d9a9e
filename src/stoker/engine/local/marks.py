"""The mark by which everything that a worker started is known, even what has left its session and lost its parent.

It is a variable in the environment with which a process was started, as ``/proc/<pid>/environ`` shows it. Programs
that a worker runs inherit it like any variable. A forked worker still shows its zygote's environment, so the zygote is
started with room for a name there, and the worker writes its own into the copy of that page that the fork made
(`stoker.runner.marks`), before it runs anything; what the worker forks in turn inherits it.
"""

from __future__ import annotations

import os

from stoker.engine.local import processes
from stoker.protocol.zygotes import MARK_BLANK, WORKER_MARKER


def marked(worker: str) -> list[int]:
    """Return the processes that bear a worker's mark."""
    exact = f"{WORKER_MARKER}={worker}"
    padded = f"{WORKER_MARKER}={worker.ljust(len(MARK_BLANK), MARK_BLANK[0])}"
    return processes.with_environment({os.fsencode(exact), os.fsencode(padded)})
