"""What a client sends to its call while that runs: pieces in order, each to one attempt, as it has room for them.

A piece that was handed out is not kept, so a body of gigabytes passes through little memory. An attempt that comes
after one which has had some of it cannot have the rest.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from stoker.types import InputEnd

WINDOW_BYTES = 256 << 10  # that wait here: past it nothing more is read from the client


class Reader(NamedTuple):
    """Who has the pieces: an attempt, by one connection of its worker."""

    attempt: int
    connection: int


class Feed:
    """See the module."""

    def __init__(self) -> None:
        self.reader: Reader | None = None
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent = 0
        self._sent_bytes = 0
        self._upto = 0
        self._end = InputEnd.OPEN
        self._is_end_told = False

    @property
    def has_room(self) -> bool:
        """Tell whether more should be read from the client."""
        return self._waiting_bytes < WINDOW_BYTES

    @property
    def is_read(self) -> bool:
        """Tell whether somebody has had some of it: what was sent cannot be sent to another."""
        return self._sent > 0

    def add(self, piece: bytes) -> None:
        if piece and self._end is InputEnd.OPEN:
            self._waiting.append(piece)
            self._waiting_bytes += len(piece)

    def end(self, why: InputEnd) -> None:
        """Note that nothing more will come. What came before a client hung up is handed out first."""
        if self._end is InputEnd.OPEN:
            self._end = why

    def ask(self, reader: Reader, *, had: int, upto: int) -> bool:
        """Note what an attempt has had, and has room for; false if it cannot have the rest.

        One that comes back on another connection goes on, unless something was under way on the one before.
        """
        known = self.reader
        is_same = known is not None and known.attempt == reader.attempt and had == self._sent
        if known is not None and known != reader and not is_same and self._sent:
            return False
        if known != reader:
            self.reader, self._is_end_told = reader, False
        self._upto = max(self._upto, upto) if is_same or known == reader else upto
        return True

    def take(self) -> tuple[list[bytes], InputEnd] | None:
        """Return the pieces to hand out now, and whether they are the last; None where there is nothing to say."""
        if self.reader is None:
            return None
        pieces: list[bytes] = []
        while self._waiting and self._sent_bytes < self._upto:
            piece = self._waiting.popleft()
            pieces.append(piece)
            self._sent += 1
            self._sent_bytes += len(piece)
            self._waiting_bytes -= len(piece)
        end = InputEnd.OPEN if self._waiting else self._end
        if not pieces and (end is InputEnd.OPEN or self._is_end_told):
            return None
        self._is_end_told = end is not InputEnd.OPEN
        return pieces, end
