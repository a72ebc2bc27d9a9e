"""What a pool's queue has waited for, and since when: so that a call which has run can tell why it did not at once.

It is kept by the pool, not by its calls: they all wait for the same, and most of them for nothing.
"""

from __future__ import annotations

from collections import deque

CHANGES_MAX = 256  # a pool's latest: what lies further back is not told
WORTH_TELLING_SECONDS = 0.1  # of a shorter wait, or a shorter part of one, nothing is said


class WaitLog:
    """See the module."""

    __slots__ = ("_changes", "now_for")

    def __init__(self) -> None:
        self.now_for = ""
        self._changes: deque[tuple[float, str]] = deque(maxlen=CHANGES_MAX)

    def note(self, now: float, reason: str) -> None:
        """Remember what is waited for from now on: ``for 2 cores to be free``. Nothing where nobody waits."""
        if reason != self.now_for:
            self.now_for = reason
            self._changes.append((now, reason))

    def told(self, start: float, end: float) -> str:
        """Return what a call waited for between these times, in words; nothing where that was too short to matter."""
        if end - start < WORTH_TELLING_SECONDS:
            return ""
        seconds: dict[str, float] = {}
        until = end
        for since, reason in reversed(self._changes):
            if until <= start:
                break
            if since < end and reason:
                seconds[reason] = seconds.get(reason, 0.0) + until - max(since, start)
            until = min(until, since)
        parts = [
            f"{waited:.1f} s {reason}"
            for reason, waited in reversed(seconds.items())
            if waited >= WORTH_TELLING_SECONDS
        ]
        return f"it waited {', '.join(parts)}" if parts else ""
