"""The records of a worker's log, and the lines that people read.

A line that user code printed through Python lies in one or more records ``\\x1e <call> \\x1f <letter> \\x1f <text>
\\n``: ``o`` and ``e`` end a line of stdout or stderr, ``O`` and ``E`` are a piece of one that goes on (a progress bar).
Other lines are native output and belong to the worker; since they may lack an end, a record can begin anywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

RECORD, UNIT = b"\x1e", b"\x1f"
STREAMS = {b"o": "stdout", b"e": "stderr", b"O": "stdout", b"E": "stderr", b"s": "stoker"}
OPEN = frozenset({b"O", b"E"})
META = b"m"
LINE_CHARS = 64 << 10  # a line that is longer is cut
PROGRESS_SECONDS = 5.0  # how often a line that is rewritten in place is shown before its end


class Line(NamedTuple):
    """A line of output, or with ``goes_on`` a piece of one: the call that printed it, empty for native output."""

    call: str
    stream: str  # stdout · stderr · stoker
    text: str
    goes_on: bool = False


def parse_lines(data: bytes) -> Iterator[Line]:
    """Yield what is in a part of a file that begins and ends at a line; not the header, which is ours."""
    for raw in data.split(b"\n"):
        native, mark, rest = raw.partition(RECORD)
        if native and (native := native.lstrip(b"\0")):
            yield Line("", "stdout", _decode(native))
        elif not mark and not raw:
            yield Line("", "stdout", "")
        while mark:
            record, mark, rest = rest.partition(RECORD)
            yield from _parse_record(record)


def _parse_record(record: bytes) -> Iterator[Line]:
    call, _, rest = record.partition(UNIT)
    letter, found, text = rest.partition(UNIT)
    if found and letter in STREAMS:
        yield Line(call.decode("ascii", "replace"), STREAMS[letter], _decode(text), letter in OPEN)
    elif letter != META or call:
        yield Line("", "stdout", _decode(record))  # a user's own control character


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")


class Joiner:
    """Makes lines of pieces. A line that was rewritten in place (``\\r``) is what was on it last."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, progress: float | None = None) -> None:
        """With ``progress``, a line that is being rewritten is yielded that often already, in seconds."""
        self._clock = clock
        self._progress = progress
        self._open: dict[tuple[str, str], str] = {}
        self._shown: dict[tuple[str, str], float] = {}

    def join(self, pieces: Iterable[Line]) -> Iterator[Line]:
        """Yield the lines that these pieces complete."""
        for piece in pieces:
            key = (piece.call, piece.stream)
            text = self._open.pop(key, "") + piece.text
            if not piece.goes_on:
                self._shown.pop(key, None)
                yield Line(piece.call, piece.stream, _last_written(text))
            else:
                yield from self._hold(key, text)

    def rest(self) -> Iterator[Line]:
        """Yield the lines that will have no end."""
        for (call, stream), text in self._open.items():
            yield Line(call, stream, _last_written(text))
        self._open.clear()

    def _hold(self, key: tuple[str, str], text: str) -> Iterator[Line]:
        if len(text) > LINE_CHARS:
            yield Line(*key, _last_written(text))
            return
        was_rewritten = key in self._shown or "\r" in text
        # The last carriage return stays until something follows it: it does not clear what it returns over.
        self._open[key] = _last_written(text) + ("\r" if text.endswith("\r") else "")
        if was_rewritten and self._progress is not None:
            now = self._clock()
            if now - self._shown.get(key, -math.inf) >= self._progress:
                self._shown[key] = now
                yield Line(*key, _last_written(text))


def _last_written(text: str) -> str:
    """Return what a terminal would show of a line at its end."""
    return text.rstrip("\r").rpartition("\r")[2]
