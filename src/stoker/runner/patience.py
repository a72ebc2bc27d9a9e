"""For how long a batch that is not full is waited for: as long as waiting has gained something lately. Pure.

What came lately says what may come: once there are as many inputs as the largest of the last batches had, nothing is
waited for. So a caller that is alone, and sends its next input when it has its result, waits for nobody; of sixty-four
such callers all that have just been answered are waited for. Now and then a batch is given all of its time, in case
there is more to be had than there was.
"""

from __future__ import annotations

from collections import deque

from stoker.types import BatchSpec

REMEMBERED = 8  # batches
PROBE_EVERY = 32  # batches


class Patience:
    """See the module."""

    def __init__(self, spec: BatchSpec) -> None:
        self._spec = spec
        self._sizes: deque[int] = deque(maxlen=REMEMBERED)
        self._until_probe = PROBE_EVERY

    @property
    def enough(self) -> int:
        """How many inputs are not waited beyond."""
        if not self._sizes or self._until_probe <= 0:
            return self._spec.max_size
        return min(self._spec.max_size, max(self._sizes))

    def seconds(self, count: int) -> float:
        """Return for how long more are waited for, at most, once there are so many."""
        return self._spec.max_wait if count < self.enough else 0.0

    def ran(self, count: int) -> None:
        """Take note of a batch that was of so many."""
        self._until_probe = PROBE_EVERY if self._until_probe <= 0 else self._until_probe - 1
        self._sizes.append(count)
