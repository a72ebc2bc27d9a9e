"""What a client sends to a call while it runs, on this end: asked for as there is room, taken piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stoker.protocol.input_messages import AskInputs, Inputs
from stoker.types import InputEnd

if TYPE_CHECKING:
    from stoker.runner.attempts import Attempt, Key

WINDOW_BYTES = 1 << 20  # that may be here, or on their way, beside what user code has taken


class Incoming:
    """The pieces of one attempt. One thread adds them, one takes them."""

    def __init__(self, attempt: Attempt, say: Callable[[AskInputs], None]) -> None:
        self.attempt = attempt
        self.end = InputEnd.OPEN
        self.on_news: Callable[[], None] | None = None
        self._say = say
        self._pieces: deque[bytes] = deque()
        self._had = 0  # pieces that have come
        self._taken_bytes = 0
        self._upto = 0

    @property
    def has_news(self) -> bool:
        return bool(self._pieces) or self.end is not InputEnd.OPEN

    def put(self, parts: Sequence[memoryview], end: int) -> None:
        self._pieces.extend(bytes(part) for part in parts)
        self._had += len(parts)
        if end:
            self.end = InputEnd(end)
        if self.on_news is not None:
            self.on_news()

    def take(self) -> bytes | None:
        """Return the next piece; None where there is none now, or, once `end` is set, any more."""
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._taken_bytes += len(piece)
        return piece

    def ask(self) -> None:
        """Ask for more, where half of the room is free."""
        if self.end is InputEnd.OPEN and self._upto - self._taken_bytes <= WINDOW_BYTES // 2:
            self._upto = self._taken_bytes + WINDOW_BYTES
            self._say(self.asking())

    def asking(self) -> AskInputs:
        """Return what says how far it is: said again on each new connection."""
        return AskInputs(self.attempt.id, self.attempt.number, self._had, self._upto)


class AllIncoming:
    """Of all attempts that are sent something."""

    def __init__(self, say: Callable[[AskInputs], None]) -> None:
        self._say = say
        self._open: dict[Key, Incoming] = {}

    def open(self, attempt: Attempt) -> Incoming:
        found = self._open[attempt.key] = Incoming(attempt, self._say)
        return found

    def close(self, attempt: Attempt) -> None:
        self._open.pop(attempt.key, None)

    def put(self, message: Inputs, parts: Sequence[memoryview]) -> None:
        found = self._open.get((message.id, message.attempt))
        if found is not None:
            found.put(parts, message.end)

    def asking(self) -> list[AskInputs]:
        """Return what is said again on a new connection: an answer may have been lost with the one before."""
        return [one.asking() for one in list(self._open.values()) if one.end is InputEnd.OPEN]
