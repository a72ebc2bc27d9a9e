"""``sys.stdout`` and ``sys.stderr`` in a worker: text that knows which call printed it.

Each line becomes one record in the worker's log::

    \x1e <call id> \x1f <letter> \x1f <text> \n

``o`` and ``e`` are a line of stdout or stderr, or its last piece; ``O`` and ``E`` a piece whose line goes on (a
progress bar): the newline after it ends the record only, and the next record of the same call and letter continues it.
A record ``\x1e \x1f t \x1f <milliseconds since the epoch, in hex> \n`` says when what follows was written.
What native code writes to fds 1 and 2 has no prefix; it may end without a newline, so a record can begin anywhere.

The streams write to a descriptor of their own, so a user who closes fds 0 to 2 loses nothing. They are installed before
the user's modules are imported (logging handlers keep the objects) and pointed to another file after a fork.
"""

from __future__ import annotations

import fcntl
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from stoker.runner.config import PARTIAL_LINE_SECONDS
from stoker.transport.current import CurrentCall, current_call

RECORD = b"\x1e"
FIELD = b"\x1f"
CHUNK_CHARS = 1 << 20  # a huge text is encoded and written piece by piece, so that it is not held three times
PARTIAL_MAX_BYTES = 64 << 10  # a line without an end is passed on in pieces of this size
HIGH_FD = 200  # out of the way of users who close or count the low ones


class LogFile:
    """A descriptor of our own to an append-only file; what cannot be written is lost, as with a closed terminal."""

    def __init__(self, fd: int, *, stamps: bool = False) -> None:
        self.fd = fd
        self._stamps = stamps
        self._stamped = 0

    @classmethod
    def over(cls, fd: int, *, stamps: bool = False) -> LogFile:
        """Return one that writes to where this descriptor leads now, with ``stamps`` the time as well."""
        return cls(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_FD), stamps=stamps)

    def write(self, data: bytes) -> None:
        if self._stamps:
            now = int(time.time() * 1000)
            if now != self._stamped:  # so no line seems older than its call; many of one millisecond share a stamp
                self._stamped = now
                data = b"%bt%b%x\n%b" % (RECORD + FIELD, FIELD, now, data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self.fd, view) :]
        except OSError:
            pass  # a full disk must not fail the call that prints

    def close(self) -> None:
        os.close(self.fd)


class CallStream(io.TextIOBase):
    """One of the two streams. Any thread may write."""

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = True
    write_through = False

    def __init__(self, fd: int, name: str, *, log: LogFile) -> None:
        self._fd = fd
        self.name = name
        self.mode = "w"
        self._log = log
        self._letter, self._open_letter = (b"o", b"O") if fd == 1 else (b"e", b"E")
        self._lock = threading.Lock()
        self._partial: dict[str, bytes] = {}
        self._open: set[str] = set()  # calls whose last record was a piece
        self._since = 0.0  # when the oldest of them began
        self._shown_at = 0.0
        self._on_partial: Callable[[float], None] | None = None
        self._buffer = CallBuffer(self)

    @property
    def buffer(self) -> Any:
        return self._buffer

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Flush only: a user who closes the stream must not silence the worker's later calls."""
        self.flush()

    @property
    def closed(self) -> bool:
        return False

    def detach(self) -> Any:
        raise io.UnsupportedOperation("detach")

    def reconfigure(self, **_: Any) -> None:
        """Accept what scripts ask of a text stream; this one is always UTF-8 and line-buffered."""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if len(text) <= CHUNK_CHARS:
            self.put(text.encode("utf-8", "backslashreplace"))
        else:
            for at in range(0, len(text), CHUNK_CHARS):
                self.put(text[at : at + CHUNK_CHARS].encode("utf-8", "backslashreplace"))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Show a line without an end, if none was shown a moment ago; complete lines are never held back."""
        now = time.monotonic()
        if self._partial and now - self._shown_at >= PARTIAL_LINE_SECONDS:
            with self._lock:
                self._show_partials(now)

    def put(self, data: bytes) -> None:
        """Write bytes of the current call."""
        if data:
            self._put(current_call(), data)

    def write_for(self, call: CurrentCall, text: str) -> None:
        """Write text as if this call had, which need not be the current one."""
        if text:
            self._put(call, text.encode("utf-8", "backslashreplace"))

    def _put(self, call: CurrentCall | None, data: bytes) -> None:
        call_id = ""
        if call is not None:
            call_id, call.printed = call.id, True
        if RECORD in data:
            data = data.replace(RECORD, b"\xe2\x90\x9e")  # its visible picture: nobody forges a record
        with self._lock:
            before = self._partial.pop(call_id, b"")
            lines, end, rest = data.rpartition(b"\n")
            if end:
                self._log.write(self._records(call_id, before + lines))
            else:
                rest = before + data
            if len(rest) >= PARTIAL_MAX_BYTES:
                self._log.write(self._piece(call_id, rest))
            elif rest:
                self._hold(call_id, rest)

    def _hold(self, call_id: str, rest: bytes) -> None:
        # Not shown at once even after a pause: `print` writes a line in several pieces.
        if not self._partial:
            self._since = time.monotonic()
            if self._on_partial is not None:
                self._on_partial(self._since + PARTIAL_LINE_SECONDS)
        self._partial[call_id] = rest

    def _records(self, call_id: str, lines: bytes) -> bytes:
        self._open.discard(call_id)
        prefix = RECORD + call_id.encode() + FIELD + self._letter + FIELD
        return prefix + lines.replace(b"\n", b"\n" + prefix) + b"\n"

    def _piece(self, call_id: str, text: bytes) -> bytes:
        self._open.add(call_id)
        # What a piece is made of may itself end in a part of a character: readers join the pieces first.
        return RECORD + call_id.encode() + FIELD + self._open_letter + FIELD + text + b"\n"

    def _show_partials(self, now: float) -> None:
        self._shown_at = now
        self._log.write(b"".join(self._piece(call_id, text) for call_id, text in self._partial.items()))
        self._partial.clear()

    @property
    def has_open(self) -> bool:
        """Tell whether some call has a line without an end."""
        return bool(self._partial or self._open)

    def end_call(self, call_id: str) -> None:
        """Write what a finished call left without an end."""
        if self._partial or self._open:
            with self._lock:
                text = self._partial.pop(call_id, b"")
                if text or call_id in self._open:
                    self._log.write(self._records(call_id, text))

    def show_due(self, now: float) -> float | None:
        """Show partial lines that are due; return when the next ones are."""
        if not self._partial:
            return None
        with self._lock:
            if now < self._since + PARTIAL_LINE_SECONDS:
                return self._since + PARTIAL_LINE_SECONDS
            self._show_partials(now)
        return None

    def rebind(self, log: LogFile, on_partial: Callable[[float], None] | None = None) -> None:
        """Write to another file from now on, as after a fork: what the parent had not written stays the parent's."""
        self._lock = threading.Lock()
        self._log = log
        self._partial = {}
        self._open = set()
        self._on_partial = on_partial

    def forget_threads(self) -> None:
        """Forget a lock that a thread of the parent held at a fork."""
        self._lock = threading.Lock()
        self._on_partial = None


class CallBuffer(io.BufferedIOBase):
    """The binary side of a stream: ``sys.stdout.buffer``."""

    def __init__(self, text: CallStream) -> None:
        self._text = text
        self.name = text.name
        self.mode = "wb"

    @property
    def raw(self) -> Any:
        return self

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for at in range(0, len(view), CHUNK_CHARS):
            self._text.put(bytes(view[at : at + CHUNK_CHARS]))
        return len(view)

    def flush(self) -> None:
        self._text.flush()

    def close(self) -> None:
        self._text.flush()

    @property
    def closed(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._text.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True


class Output:
    """Both streams of this process."""

    def __init__(self) -> None:
        self.log = LogFile.over(2, stamps=True)
        self.stdout = CallStream(1, "<stdout>", log=self.log)
        self.stderr = CallStream(2, "<stderr>", log=self.log)

    @classmethod
    def install(cls) -> Output:
        """Put the streams in place of Python's own; the very last words of the interpreter use the originals."""
        output = cls()
        sys.stdout = output.stdout
        sys.stderr = output.stderr
        return output

    def rebind(self, *, on_partial: Callable[[float], None] | None = None) -> None:
        """Follow fds 1 and 2 to where they lead now."""
        old, self.log = self.log, LogFile.over(2, stamps=True)
        for stream in (self.stdout, self.stderr):
            stream.rebind(self.log, on_partial)
        old.close()

    def notify_partial(self, on_partial: Callable[[float], None]) -> None:
        """Say whom to tell when a line without an end must be shown later, and when that is."""
        self.stdout._on_partial = self.stderr._on_partial = on_partial

    @property
    def has_open(self) -> bool:
        """Tell whether some call has a line without an end on either."""
        out, err = self.stdout, self.stderr
        return bool(out._partial or out._open or err._partial or err._open)

    def end_call(self, call_id: str) -> None:
        self.stdout.end_call(call_id)
        self.stderr.end_call(call_id)

    def show_due(self, now: float) -> float | None:
        """Show partial lines that are due; return when the next ones are, None for none."""
        dues = [due for stream in (self.stdout, self.stderr) if (due := stream.show_due(now)) is not None]
        return min(dues, default=None)

    def after_user_fork(self) -> None:
        """Make the streams usable in a child that user code forked."""
        self.stdout.forget_threads()
        self.stderr.forget_threads()
