"""What people see while a program runs: output of their functions, environments being built, warnings.

Output of user code goes to this program's own stdout and stderr, each line with the function's name before it. All the
rest goes to stderr, as one line that is written over where that is a terminal.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from stoker.protocol.messages import Notice

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)  # what reads on dark and light grounds; no red: it means errors
REFRESH_SECONDS = 0.1


class Screen:
    """Writes whole lines, and keeps one line of progress below them where stderr is a terminal."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._status = ""
        self._last_phase: dict[str, str] = {}
        self.show_output = True
        self.show_progress = False

    def line(self, text: str, stream: TextIO) -> None:
        with self._lock:
            self._erase()
            stream.write(text if text.endswith("\n") else text + "\n")
            stream.flush()
            self._draw()

    def status(self, text: str) -> None:
        """Replace the line of progress; without a terminal, say only what is new."""
        with self._lock:
            if not _is_terminal(sys.stderr):
                return
            self._erase()
            self._status = text
            self._draw()

    def phase(self, label: str, text: str) -> None:
        """Say once what a function is waiting for."""
        with self._lock:
            if self._last_phase.get(label) == text:
                return
            self._last_phase[label] = text
            if _is_terminal(sys.stderr):
                self.status(text)
            elif text:
                self.line(text, sys.stderr)

    def _erase(self) -> None:
        if self._status:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def _draw(self) -> None:
        if self._status:
            width = _terminal_width()
            sys.stderr.write(self._status[: width - 1])
            sys.stderr.flush()


screen = Screen()


def show(notice: Notice) -> None:
    """Print a notice of the server; see `stoker.server.notices` for what each kind carries."""
    data = notice.data
    if notice.kind == "log":
        if screen.show_output:
            _show_log(data)
    elif notice.kind == "phase":
        _show_phase(data)
    else:
        warn(str(data.get("message", "")))


def warn(text: str) -> None:
    """Print a warning of Stoker's own."""
    screen.line(f"stoker: {text}", sys.stderr)


@contextmanager
def enable_output(*, progress: bool = True, output: bool = True) -> Iterator[None]:
    """Show progress bars of maps, and the output of functions, while the block runs.

    Output of functions is shown without this as well; ``output=False`` turns it off.
    """
    before = screen.show_progress, screen.show_output
    screen.show_progress, screen.show_output = progress, output
    try:
        yield
    finally:
        screen.show_progress, screen.show_output = before


class Progress:
    """The live bar of one map; silent unless progress is shown."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._started = time.monotonic()
        self._drawn = 0.0
        self.enabled = screen.show_progress and _is_terminal(sys.stderr)

    def advance(self, done: int, total: int | None) -> None:
        """Draw the bar, at most ten times a second. ``total`` is None while inputs are still being pulled."""
        now = time.monotonic()
        if now - self._drawn >= REFRESH_SECONDS or done == total:
            self._drawn = now
            screen.status(self._text(done, total, now - self._started))

    def close(self) -> None:
        if self.enabled and self._drawn:
            screen.status("")

    def _text(self, done: int, total: int | None, seconds: float) -> str:
        rate = done / seconds if seconds > 0 else 0.0
        if not total:
            return f"{self._label}  {done} done  {rate:.0f}/s"
        filled = 24 * done // total
        bar = "━" * filled + "╌" * (24 - filled)
        left = (total - done) / rate if rate else 0.0
        return f"{self._label}  {bar} {done}/{total}  {rate:.1f}/s  {left:.0f} s left"


def _show_log(data: dict[str, Any]) -> None:
    label = str(data.get("function", ""))
    streams = data.get("streams") or [data.get("stream", "stdout")]
    texts = data.get("texts") or [data.get("text", "")]
    for i, text in enumerate(texts):
        target = sys.stderr if streams[min(i, len(streams) - 1)] == "stderr" else sys.stdout
        prefix = _coloured(label, target)
        for line in str(text).splitlines() or [""]:
            screen.line(f"{prefix} | {line}" if prefix else line, target)


def _show_phase(data: dict[str, Any]) -> None:
    label = str(data.get("function", ""))
    phase, detail = str(data.get("phase", "")), str(data.get("detail", ""))
    if phase == "building":
        screen.phase(label, f"building environment for {label}: {detail}" if detail else "")
    else:
        screen.phase(label, "")


def _coloured(label: str, stream: TextIO) -> str:
    if not label or not _is_terminal(stream) or "NO_COLOR" in os.environ:
        return label
    return f"\x1b[{_COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]}m{label}\x1b[0m"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # replaced by something less than a file, or closed
        return False


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80
