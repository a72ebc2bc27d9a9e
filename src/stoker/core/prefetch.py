"""How many attempts a worker may hold beyond those it runs.

None, unless runs are so short that the round trip that would fetch the next one is worth something beside them: then
one more, or enough to fill a few milliseconds, and what turns out to be stuck behind a long run is taken back.
"""

from __future__ import annotations

SHORT_RUN_SECONDS = 0.01  # a round trip is a third of a millisecond, and on a server at its limit several of them
FILL_SECONDS = 0.004  # work kept at a worker: it hides a scheduling hiccup of the server
DEPTH_MAX = 256
STUCK_SECONDS = 0.02  # a batch of short runs that takes this long is not one: give the rest to others


def depth(seconds: float | None) -> int:
    """Return how many attempts to keep at a worker whose calls take this long each."""
    if seconds is None or seconds > SHORT_RUN_SECONDS:
        return 1
    return min(DEPTH_MAX, max(2, int(FILL_SECONDS / max(seconds, 1e-6))))
