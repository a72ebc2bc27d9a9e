"""Running the programs of a build: output streamed line by line, nothing left behind."""

from __future__ import annotations

import codecs
import os
import select
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stoker.images.file_locks import BuildLock

MAX_OUTPUT_CHARS = 200_000  # of a program's output, what an error can carry; the end is what matters


@dataclass(frozen=True)
class Finished:
    """``output`` has both streams, in the order written."""

    returncode: int
    output: str


def run(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], lock: BuildLock, on_line: Callable[[str], None]
) -> Finished:
    """Run a program to its end, in a session of its own; what it left running in there is killed.

    Raises:
        BuildHalted: the build was ended meanwhile, and the program with it.
    """
    lock.halt.check()
    process = subprocess.Popen(
        argv,
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock.fd,),
    )
    lines = _Lines(on_line)
    try:
        lock.record(process.pid)
        assert process.stdout is not None
        with lock.halt.running(process.pid):
            for chunk in _chunks(process.stdout.fileno(), process.pid):
                lines.feed(chunk)
        lines.end()
    finally:
        _end_group(process)
    lock.halt.check()
    return Finished(process.returncode, "".join(lines.kept))


class _Lines:
    """Turns chunks into lines; keeps the last of them."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.kept: deque[str] = deque()
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._size = 0

    def feed(self, chunk: bytes, *, final: bool = False) -> None:
        *whole, self._rest = (self._rest + self._decoder.decode(chunk, final)).split("\n")
        for line in whole:
            self._take(line + "\n")

    def end(self) -> None:
        self.feed(b"", final=True)
        if self._rest:
            self._take(self._rest)

    def _take(self, line: str) -> None:
        self.kept.append(line)
        self._size += len(line)
        while self._size > MAX_OUTPUT_CHARS and len(self.kept) > 1:
            self._size -= len(self.kept.popleft())
        self._on_line(line.rstrip())


def _chunks(pipe: int, pid: int) -> Iterator[bytes]:
    """Yield what is written to ``pipe`` until the process ends: what it left running may hold the pipe for ever."""
    os.set_blocking(pipe, False)
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(ended, select.POLLIN)
    try:
        while True:
            ready = {fd for fd, _ in poll.poll()}
            chunk = _read(pipe) if pipe in ready else None
            if chunk:
                yield chunk
            elif ended in ready:
                return
            elif chunk == b"":
                poll.unregister(pipe)  # it closed its output and runs on
    finally:
        os.close(ended)


def _read(pipe: int) -> bytes | None:
    try:
        return os.read(pipe, 65536)
    except BlockingIOError:
        return None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the session. The leader is reaped after that: until then its number is not reused."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
