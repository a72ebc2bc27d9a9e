"""The terminal that a line of progress shares with what the program prints itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TextIO


class GuardedStream:
    """Stands in for ``sys.stdout`` or ``sys.stderr`` while a line of progress is drawn: writes go round that line.

    All but writing is the stream's own. Who keeps it for longer than the line is there writes as ever.
    """

    def __init__(self, stream: TextIO, write_around: Callable[[TextIO, str], int]) -> None:
        self.bare = stream
        self._write_around = write_around

    def write(self, text: str, /) -> int:
        return self._write_around(self.bare, text)

    def writelines(self, lines: Iterable[str], /) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)


def bare(stream: Any) -> Any:
    """Return the stream itself, without its guard."""
    return stream.bare if isinstance(stream, GuardedStream) else stream


def is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # replaced by something less than a file, or closed
        return False


def width(stream: Any) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80
