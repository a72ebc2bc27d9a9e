"""What workers print, sent on as it comes.

The kernel tells which files grew (inotify), so that silent workers cost nothing; a busy one is read every
`ROUND_SECONDS`. Past `LIVE_BYTES_PER_SECOND` of one worker, older lines are counted instead of sent: they are in the
file. Without a server, or while it is slow to read, output waits in the files, which are kept within their size all
the same.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from stoker.engine.local.log_files import (
    KEEP_BYTES,
    TRIM_SLACK_BYTES,
    Header,
    append_note,
    create_log,
    log_path,
    trim,
)
from stoker.engine.local.log_lines import PROGRESS_SECONDS, RECORD, Joiner, Line, parse_lines
from stoker.engine.local.processes import libc
from stoker.protocol.messages import LogLines
from stoker.quantities import format_size

ROUND_SECONDS = 0.05  # people see lines at once; a busy worker costs twenty reads a second
LIVE_BYTES_PER_SECOND = 4 << 20  # more than anybody reads, less than what would crowd out results
CHUNK_BYTES = 1 << 20  # of text in one message
PARTIAL_BYTES = 64 << 10  # a line that is longer is cut
FAILED_STARTS_MAX = 1000  # functions of which is known what their last failed start was
FAILED_STARTS_BYTES = 1 << 20  # of one function's, after which the file is begun anew
COUNT_BYTES = 32 << 20  # of lines that are not sent, how many bytes a round are looked through to count them
IN_MODIFY = 0x2
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
EVENT = struct.Struct("iIII")
Send = Callable[[LogLines], None]


class Tail:
    """One worker's file: where we are in it, and what was not sent."""

    def __init__(self, path: Path, header: Header, *, from_end: bool, kept: bool = True) -> None:
        self.header = header
        self._advice = ", see `stoker logs`" if kept else ""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._at = os.fstat(self._fd).st_size if from_end else 0
        self._partial = b""
        self._joiner = Joiner(progress=PROGRESS_SECONDS)
        self._allowance = float(LIVE_BYTES_PER_SECOND)
        self._counted = time.monotonic()
        self._unshown_lines = 0
        self._unshown_bytes = 0

    def close(self) -> None:
        os.close(self._fd)

    def trim(self) -> None:
        """Keep the file within its size."""
        found = os.fstat(self._fd)
        if found.st_blocks * 512 > KEEP_BYTES + TRIM_SLACK_BYTES:
            start = trim(self._fd, found.st_size)
            if self._at < start:
                self._unshown_bytes += start - self._at
                self._at = start

    def read(self, send: Send) -> None:
        """Send what is new, as far as the rate allows."""
        size = os.fstat(self._fd).st_size
        if size < self._at:
            self._at = 0  # it was started anew
        self._refill()
        excess = size - self._at - int(self._allowance)
        if excess > 0:
            self._skip(excess)
        else:
            self._tell_unshown(send)
        while self._at < size and (data := os.pread(self._fd, min(CHUNK_BYTES, size - self._at), self._at)):
            self._at += len(data)
            self._allowance = max(0.0, self._allowance - len(data))
            self._take(data, send)

    def finish(self, send: Send) -> None:
        """Send all that is left, the last line without its end included."""
        self.read(send)
        self._tell_unshown(send)
        if self._partial:
            self._send_lines(self._partial, send)
            self._partial = b""
        self._send(list(self._joiner.rest()), send)

    def _refill(self) -> None:
        now = time.monotonic()
        earned = (now - self._counted) * LIVE_BYTES_PER_SECOND
        self._allowance = min(float(LIVE_BYTES_PER_SECOND), self._allowance + earned)
        self._counted = now

    def _take(self, data: bytes, send: Send) -> None:
        whole, newline, rest = data.rpartition(b"\n")
        if newline:
            self._send_lines(self._partial + whole, send)
            self._partial = rest
        else:
            self._partial += rest
        if len(self._partial) > PARTIAL_BYTES:
            self._send_lines(self._partial, send)
            # The next piece belongs to the same call and stream, whose mark stands at the start of the line only.
            self._partial = _mark_of(self._partial)

    def _skip(self, count: int) -> None:
        self._unshown_bytes += count
        end = self._at + count
        if count <= COUNT_BYTES:
            while self._at < end and (data := os.pread(self._fd, min(CHUNK_BYTES, end - self._at), self._at)):
                self._unshown_lines += data.count(b"\n")
                self._at += len(data)
        self._at = end
        self._partial = b""
        self._to_line_start()

    def _to_line_start(self) -> None:
        """Go on behind the next newline, so that no half line is shown; a line that is too long for that is cut."""
        if self._at and os.pread(self._fd, 1, self._at - 1) != b"\n":
            found = os.pread(self._fd, PARTIAL_BYTES, self._at).find(b"\n")
            self._at += found + 1

    def _tell_unshown(self, send: Send) -> None:
        if self._unshown_bytes:
            what = f"{self._unshown_lines} lines, {format_size(self._unshown_bytes)}," if self._unshown_lines else ""
            text = f"… {what or format_size(self._unshown_bytes)} not shown live{self._advice}"
            self._unshown_lines = self._unshown_bytes = 0
            self._send([Line("", "stoker", text)], send)

    def _send_lines(self, data: bytes, send: Send) -> None:
        self._send(list(self._joiner.join(parse_lines(data))), send)

    def _send(self, lines: list[Line], send: Send) -> None:
        if not lines:
            return
        calls, streams, texts, _, times = (list(column) for column in zip(*lines, strict=True))
        now = time.time()
        send(LogLines(self.header.worker, self.header.function, calls, streams, [at or now for at in times], texts))


def _mark_of(line: bytes) -> bytes:
    mark, found, _ = line.rpartition(b"\x1f")
    start = mark.rfind(RECORD)
    return mark[start:] + found if found and start >= 0 and mark.count(b"\x1f", start) == 1 else b""


class LogTails:
    """The tails of all workers of this node."""

    def __init__(
        self,
        directory: Path,
        *,
        send: Send,
        connected: Callable[[], bool],
        slow: Callable[[], bool] = lambda: False,
        kept: bool = True,
    ) -> None:
        """``connected`` and ``slow`` tell of the server; `resume` says that it can take more again.

        What is ``kept`` beyond the program can be looked up: where lines are not shown, that is said.
        """
        self._kept = kept
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._send = send
        self._connected = connected
        self._slow = slow
        self._failed_starts: dict[str, bytes] = {}  # by function, a digest of what the last that was noted failed with
        self._ended: list[Tail] = []
        self._tails: dict[str, Tail] = {}
        self._dirty: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._last_round = 0.0
        self._inotify = _open_inotify(directory)
        if self._inotify >= 0:
            asyncio.get_running_loop().add_reader(self._inotify, self._on_events)

    @property
    def waiting(self) -> bool:
        """Tell whether there is output that the server could not take."""
        return bool(self._dirty) and self._timer is None

    @property
    def workers(self) -> set[str]:
        return set(self._tails)

    def add(self, header: Header, *, adopted: bool = False) -> Path:
        """Make a worker's file and follow it; an adopted one from here on: its earlier output was sent by others."""
        path = log_path(self._directory, header.worker)
        create_log(path, header)
        self._tails[header.worker] = Tail(path, header, from_end=adopted, kept=self._kept)
        if self._inotify < 0:
            self._schedule()
        return path

    def note_failed_start(self, function: str, label: str, text: str) -> None:
        """Keep what a start failed with, beside what the function's workers have printed.

        It is in a file for each function, and not sent: who waits for a worker is told anyway. What is the same as the
        time before is not written again, or a function that does not start would fill its log.
        """
        name = f"starts-{function}"
        path = log_path(self._directory, name)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        if self._failed_starts.get(function) == digest and path.exists():
            return
        self._failed_starts[function] = digest
        while len(self._failed_starts) > FAILED_STARTS_MAX:
            del self._failed_starts[next(iter(self._failed_starts))]
        if path.exists() and path.stat().st_size > FAILED_STARTS_BYTES:
            path.unlink()
        create_log(path, Header(name, function, label, time.time()))
        append_note(path, f"not started: {text.removeprefix(f'{label}: ')}")

    def finish(self, worker: str) -> None:
        """Send all that a worker has written and forget it; without a server, as soon as there is one."""
        tail = self._tails.pop(worker, None)
        self._dirty.discard(worker)
        if tail is not None:
            tail.trim()
            self._ended.append(tail)
            self._finish_ended()

    def _finish_ended(self) -> None:
        while self._ended and self._connected():
            tail = self._ended.pop(0)
            tail.finish(self._send)
            tail.close()

    def flush(self) -> None:
        """Send all that was written so far."""
        for tail in self._tails.values():
            tail.read(self._send)

    def resume(self) -> None:
        """Go on after the server was not there, or slow; what was held back of ended workers is sent at once."""
        self._finish_ended()
        self._dirty |= set(self._tails)
        self._schedule()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._inotify >= 0:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
        for tail in [*self._tails.values(), *self._ended]:
            tail.close()
        self._tails.clear()
        self._ended.clear()

    def _on_events(self) -> None:
        # Not read again before the next round: a worker that prints all the time wakes us at its rate no more.
        asyncio.get_running_loop().remove_reader(self._inotify)
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            delay = max(0.0, self._last_round + ROUND_SECONDS - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._round)

    def _round(self) -> None:
        self._timer = None
        self._last_round = time.monotonic()
        self._dirty |= self._changed()
        ready = self._connected() and not self._slow()
        for worker in list(self._dirty):
            tail = self._tails.get(worker)
            if tail is None or ready:
                self._dirty.discard(worker)
            if tail is not None:
                if ready:
                    tail.read(self._send)
                tail.trim()
        if self._inotify >= 0:
            asyncio.get_running_loop().add_reader(self._inotify, self._on_events)
        elif self._tails:
            self._schedule()

    def _changed(self) -> set[str]:
        if self._inotify < 0:
            return set(self._tails)
        found = set()
        try:
            while data := os.read(self._inotify, 1 << 16):
                at = 0
                while at < len(data):
                    _, _, _, length = EVENT.unpack_from(data, at)
                    name = data[at + EVENT.size : at + EVENT.size + length].rstrip(b"\0")
                    found.add(name.decode().removesuffix(".log"))
                    at += EVENT.size + length
        except BlockingIOError:
            pass
        return found if found.isdisjoint({""}) else set(self._tails)  # no name: the kernel's queue ran over


def _open_inotify(directory: Path) -> int:
    """Return a descriptor that tells of writes in a directory, -1 where the user has too many of them."""
    fd = int(libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC))
    if fd >= 0 and libc.inotify_add_watch(fd, ctypes.c_char_p(os.fsencode(directory)), ctypes.c_uint32(IN_MODIFY)) < 0:
        os.close(fd)
        return -1
    return fd
