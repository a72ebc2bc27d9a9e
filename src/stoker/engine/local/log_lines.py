"""The records of a worker's log, and the lines that people read.

A line that user code printed through Python lies in one or more records ``\\x1e <call> \\x1f <letter> \\x1f <text>
\\n``: ``o`` and ``e`` end a line of stdout or stderr, ``O`` and ``E`` are a piece of one that goes on (a progress bar).
A record ``t`` says when what follows it was written. Other lines are native output and belong to the worker; since they
may lack an end, a record can begin anywhere.

A line that was rewritten in place is what a terminal would show of it at its end: after a ``\r`` the next text takes
the place of as many characters as it has, and what is longer stays (``abc\rX`` is ``Xbc``).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

RECORD, UNIT = b"\x1e", b"\x1f"
STREAMS = {b"o": "stdout", b"e": "stderr", b"O": "stdout", b"E": "stderr", b"s": "stoker"}
OPEN = frozenset({b"O", b"E"})
META, STAMP = b"m", b"t"
TIME = "time"  # the stream of a stamp, which `Joiner` keeps for itself
LINE_CHARS = 64 << 10  # a line that is longer is cut
PROGRESS_SECONDS = 5.0  # how often a line that is rewritten in place is shown before its end


_ERASE = re.compile(r"(\x1b\[[02]?K)")
_ERASES = frozenset({"\x1b[K", "\x1b[0K", "\x1b[2K"})


class Line(NamedTuple):
    """A line of output, or with ``goes_on`` a piece of one: the call that printed it, empty for native output.

    ``time`` is when it was written, in seconds since the epoch; 0 where that is not known.
    """

    call: str
    stream: str  # stdout · stderr · stoker
    text: str
    goes_on: bool = False
    time: float = 0.0


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
    elif letter == STAMP and found and not call:
        yield Line("", TIME, _decode(text))
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
        self._time = 0.0

    def join(self, pieces: Iterable[Line]) -> Iterator[Line]:
        """Yield the lines that these pieces complete."""
        for piece in pieces:
            if piece.stream == TIME:
                self._time = _milliseconds(piece.text)
                continue
            key = (piece.call, piece.stream)
            text = self._open.pop(key, "") + piece.text
            if not piece.goes_on:
                self._shown.pop(key, None)
                yield self._line(key, text)
            else:
                yield from self._hold(key, text)

    def rest(self) -> Iterator[Line]:
        """Yield the lines that will have no end."""
        for key, text in self._open.items():
            yield self._line(key, text)
        self._open.clear()

    def _line(self, key: tuple[str, str], text: str) -> Line:
        return Line(*key, on_screen(text)[0], time=self._time)

    def _hold(self, key: tuple[str, str], text: str) -> Iterator[Line]:
        if len(text) > LINE_CHARS:
            yield self._line(key, text)
            return
        was_rewritten = key in self._shown or "\r" in text
        shown, cursor = on_screen(text)
        # What has to be kept is what there is, and where the next piece is written.
        self._open[key] = shown if cursor >= len(shown) else f"{shown}\r{shown[:cursor]}"
        if was_rewritten and self._progress is not None:
            now = self._clock()
            if now - self._shown.get(key, -math.inf) >= self._progress:
                self._shown[key] = now
                yield Line(*key, shown, time=self._time)


def on_screen(text: str) -> tuple[str, int]:
    """Return what a terminal shows of a line, and the column in which it would write on."""
    if "\r" not in text:
        return text, len(text)
    cells: list[str] = []
    cursor = 0
    for part in text.split("\r"):
        cursor = 0
        for piece in _ERASE.split(part):
            if piece in _ERASES:
                del cells[0 if "2" in piece else cursor :]
            elif "\x1b" in piece:
                cells, cursor = list(piece), len(piece)  # colours, or jumps: columns cannot be told
            else:
                cells[cursor : cursor + len(piece)] = piece
                cursor += len(piece)
    return "".join(cells).rstrip(" "), cursor


def _milliseconds(text: str) -> float:
    try:
        return int(text, 16) / 1000
    except ValueError:
        return 0.0
