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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from stoker.client.terminal import GuardedStream, bare, is_terminal, width
from stoker.protocol.messages import Notice

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)  # what reads on dark and light grounds; no red: it means errors
REFRESH_SECONDS = 0.1


class Screen:
    """Writes whole lines, and keeps one line of progress below them where stderr is a terminal.

    While that line is there, what the program prints itself goes round it: the line is erased before, and drawn again
    once the program's own line is complete.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._status = ""
        self._terminal: Any = None  # where the line of progress is
        self._drawn = False
        self._partial = False  # the program has begun a line of its own and not ended it
        self._last_phase: dict[str, str] = {}
        self.show_output = True
        self.show_progress = False
        self.follower: Callable[[dict[str, Any]], None] | None = None  # takes lines of output in this screen's place

    def line(self, text: str, stream: TextIO) -> None:
        target = bare(stream)
        with self._lock:
            self._erase()
            try:
                target.write(text if text.endswith("\n") else text + "\n")
                target.flush()
            except ValueError:  # it was closed: whoever reads what the server says must not end for that
                return
            self._partial = self._partial and not is_terminal(target)
            self._draw()

    def status(self, text: str) -> None:
        """Replace the line of progress; without a terminal, say only what is new."""
        with self._lock:
            if text and not is_terminal(sys.stderr):
                return
            self._erase()
            self._status = text
            if text:
                self._guard()
            else:
                self._release()
            self._draw()

    def phase(self, label: str, text: str) -> None:
        """Say once what a function is waiting for."""
        with self._lock:
            if self._last_phase.get(label) == text:
                return
            self._last_phase[label] = text
            if is_terminal(sys.stderr):
                self.status(text)
            elif text:
                self.line(text, sys.stderr)

    def forget(self) -> None:
        """Leave the line of progress to the process that this one was forked from."""
        self._lock = threading.RLock()
        self._status, self._drawn = "", False
        self._release()

    def _write_around(self, stream: TextIO, text: str) -> int:
        """Write what the program prints to a guarded stream."""
        with self._lock:
            if not self._status:
                return stream.write(text)
            self._erase()
            try:
                written = stream.write(text)
                if text:
                    self._partial = not text.endswith("\n")
                if not self._partial:
                    stream.flush()
                return written
            finally:
                self._draw()

    def _guard(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if is_terminal(stream) and not isinstance(stream, GuardedStream):
                setattr(sys, name, GuardedStream(stream, self._write_around))
        self._terminal = bare(sys.stderr)

    def _release(self) -> None:
        for name in ("stdout", "stderr"):
            setattr(sys, name, bare(getattr(sys, name)))
        self._partial = False

    def _erase(self) -> None:
        if self._drawn:
            self._drawn = False
            self._put("\r\x1b[2K")

    def _draw(self) -> None:
        if self._status and not self._partial:
            self._drawn = True
            self._put(self._status[: width(self._terminal) - 1])

    def _put(self, text: str) -> None:
        """Write a part of the line of progress; the program goes on where the terminal is gone or cannot show it."""
        with suppress(OSError, ValueError):
            self._terminal.write(text)
            self._terminal.flush()


screen = Screen()
os.register_at_fork(after_in_child=screen.forget)


def show(notice: Notice) -> None:
    """Print a notice of the server; see `stoker.server.notices` for what each kind carries."""
    data = notice.data
    if notice.kind == "log":
        if screen.follower is not None:
            screen.follower(data)
        elif screen.show_output:
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
        self.enabled = screen.show_progress and is_terminal(sys.stderr)

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
    elif phase == "waiting":
        reason = detail.partition(";")[0].strip()
        screen.phase(label, f"{label} waits {reason}" if reason else "")
    else:
        screen.phase(label, "")


def _coloured(label: str, stream: TextIO) -> str:
    if not label or not is_terminal(stream) or "NO_COLOR" in os.environ:
        return label
    return f"\x1b[{_COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]}m{label}\x1b[0m"
