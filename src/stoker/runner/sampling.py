"""Says where a forked worker is when its first attempt seems to hang.

A library that was not made to be forked shows it at once: the child waits for a thread that was not copied. Its stacks
then tell people what to start fresh. It is not killed: code that waits for a slow service looks the same.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Mapping

from stoker.runner.attempts import Attempt, Key
from stoker.runner.config import FIRST_ATTEMPT_SILENT_SECONDS
from stoker.runner.output import Output

IDLE_CPU_SECONDS = 0.05  # what the interpreter itself uses while it waits


class Sampler:
    """Looks once, at a worker's first attempt."""

    def __init__(self, output: Output, *, seconds: float = FIRST_ATTEMPT_SILENT_SECONDS) -> None:
        self._output = output
        self._seconds = seconds
        self._due: float | None = None
        self._first: Key | None = None
        self._cpu = 0.0

    def begin(self, first: Key, now: float) -> float:
        """Note the start of the first attempt; return when to look."""
        self._cpu = time.process_time()
        self._first = first
        self._due = now + self._seconds
        return self._due

    def check(self, now: float, running: Mapping[Key, Attempt]) -> float | None:
        """Write all stacks to the log if it is time, the first attempt still runs and nothing was computed; return when
        to look."""
        if self._due is None or now < self._due:
            return self._due
        self._due = None
        if self._first in running and time.process_time() - self._cpu < IDLE_CPU_SECONDS:
            self._output.log.write(
                f"stoker: the first call of this worker has used no CPU for {self._seconds:g} s. If it should compute, "
                "a library that its module imports may not work in a forked process. Where it is:\n".encode()
            )
            faulthandler.dump_traceback(self._output.log.fd, all_threads=True)
        return None
