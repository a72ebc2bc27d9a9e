"""How long a client has taken nothing of what was written for it: the same for all that speak on a connection."""

from __future__ import annotations

import asyncio

READ_SECONDS = 60.0  # without a byte of what was written being taken


class Unread:
    """See the module. Times are of the event loop's clock."""

    def __init__(self) -> None:
        self._full_since = 0.0  # since when no more could be written
        self._closing_since = 0.0

    def is_full(self, now: float) -> None:
        self._full_since = now

    def has_room(self) -> None:
        self._full_since = 0.0

    def check(self, transport: asyncio.Transport, now: float) -> None:
        """Cut a connection whose client reads nothing; a closed one waits for its last bytes to be taken, too."""
        if transport.is_closing() and not self._closing_since:
            self._closing_since = now
        since = self._full_since or self._closing_since
        if since and now - since > READ_SECONDS:
            transport.abort()
