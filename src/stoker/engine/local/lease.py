"""A node's lease, as its agent counts it: how long ago the server on another machine was heard last.

The server counts on its own: it takes the node's workers for lost once nothing was heard of it for the lease. The agent
hears of a beat's echo after the server has had the beat, so that its count is never behind the server's.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.protocol.messages import Beat

BEAT_SECONDS = 2.0
SHARE = 0.8  # of the lease after which an agent ends what must not run twice: clocks run at slightly different speeds


@dataclass
class Lease:
    """See the module. Times are monotonic ones of this machine: no clock is compared with another's."""

    now: float
    seconds: float = 0.0  # what the server said; 0 until it has

    def __post_init__(self) -> None:
        self._sent: dict[int, float] = {}
        self._number = 0
        self._last_sent = -BEAT_SECONDS
        self._heard_at = self.now  # when the last beat left that came back

    def due(self, *, now: float) -> Beat | None:
        """Return the beat to be sent, if it is time for one."""
        if now - self._last_sent < BEAT_SECONDS:
            return None
        self._last_sent = now
        self._number += 1
        self._sent[self._number] = now
        while len(self._sent) > 64:
            del self._sent[next(iter(self._sent))]
        return Beat(self._number)

    def heard(self, beat: Beat, *, now: float) -> None:
        """Take what the server sent back."""
        self.seconds = beat.lease
        self._heard_at = max(self._heard_at, self._sent.pop(beat.number, self._heard_at))

    def is_over(self, *, now: float) -> bool:
        """Tell whether the server may take this node's workers for lost."""
        return bool(self.seconds) and now - self._heard_at > SHARE * self.seconds
