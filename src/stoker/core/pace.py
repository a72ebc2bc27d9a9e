"""How fast a pool gets through its queue: what a call that waits can expect.

What runs take by themselves is less than that: between two of them a result travels, the next call does, and on a busy
machine both wait for a processor. So the time is taken from one end of a call to the next, while others wait: then all
slots are in use, however many there are and whatever runs together.
"""

from __future__ import annotations

from collections.abc import Callable

SAMPLE_SECONDS = 0.02  # of short calls several make a sample: a look at the workers for each would cost as much as they
WEIGHT = 0.2  # of a new sample: of short calls about the last tenth of a second decides


class Pace:
    """``seconds``: those that a slot is taken up by one call; None before there was a queue."""

    __slots__ = ("_count", "_since", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._since: float | None = None  # when the first end came of those that are counted
        self._count = 0

    def ended(self, count: int, *, now: float, others_wait: bool, slots: Callable[[], int]) -> None:
        """Take in that calls have ended; ``slots`` is how many run at once."""
        if self._since is not None:
            self._count += count
            took = now - self._since
            if others_wait and took < SAMPLE_SECONDS:
                return
            if took > 0 and self._count:
                sample = took * slots() / self._count
                self.seconds = sample if self.seconds is None else self.seconds + WEIGHT * (sample - self.seconds)
        self._since = now if others_wait else None
        self._count = 0
