"""Locks between processes: `flock` on small files, which the kernel drops when their holder dies.

A lock file may be removed by whoever holds it exclusively; everybody else notices and takes the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stoker.images.halts import Halt

TELL_TRIES = 5  # who holds it for so short a time only looks after the place
_TAKER = re.compile(r"FLOCK +\S+ +WRITE +([1-9]\d*)")  # of a descriptor's lock: the process that took it
POLL_S = 0.05  # flock cannot be waited for with a check of its holder in between


class BuildLock:
    """An exclusive lock, held. Programs that write under it inherit ``fd``, so it lasts as long as the last of them.

    What ends the build that holds it comes along as ``halt``.
    """

    def __init__(self, fd: int, halt: Halt) -> None:
        self.fd = fd
        self.halt = halt

    def record(self, group: int) -> None:
        """Note the process group that works under this lock, so that a successor can end it if we die."""
        text = json.dumps([os.getpid(), start_time(os.getpid()), group, start_time(group)])
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, text.encode(), 0)


@contextmanager
def build_lock(path: Path, *, waiting: Callable[[], None], halt: Halt | None = None) -> Iterator[BuildLock]:
    """Hold the lock at ``path``; ``waiting`` is called once if somebody else has it, ``halt`` ends the wait.

    If its holder died and left programs running that still write (they hold the inherited lock), those are ended first.

    Raises:
        BuildHalted: the build was ended while it waited.
    """
    halt = halt or Halt()
    fd = _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    tries = 0
    while fd is None:
        tries += 1
        if tries == TELL_TRIES:
            waiting()
        time.sleep(POLL_S)
        halt.check()
        _end_orphans(path)
        fd = _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield BuildLock(fd, halt)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # for those too that inherited it and live on
        os.close(fd)


def take_shared(path: Path) -> int:
    """Take a shared lock and return its file descriptor; waits for an exclusive holder, which is always brief."""
    fd = _take(path, fcntl.LOCK_SH)
    while fd is None:
        fd = _take(path, fcntl.LOCK_SH)
    return fd


def try_exclusive(path: Path) -> int | None:
    """Take the lock alone if nobody holds it."""
    return _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _take(path: Path, how: int) -> int | None:
    """Return a locked descriptor of the file that is at ``path`` now, None if it is held or was removed just now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        if os.fstat(fd).st_ino == path.stat().st_ino:
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None


def _end_orphans(path: Path) -> None:
    _end_recorded(path)
    for pid in _heirs(path):  # what was started by a builder that died before it could note it
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _heirs(path: Path) -> list[int]:
    """Return the processes that hold the lock at ``path`` by a descriptor inherited from one that is dead."""
    found = []
    place = str(path.resolve())
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with suppress(OSError):  # it is another user's, or has ended
                fds = [fd.name for fd in (process / "fd").iterdir() if str(fd.readlink()) == place]
                takers = [_TAKER.search((process / "fdinfo" / fd).read_text()) for fd in fds]
                if any(taker is not None and start_time(int(taker[1])) == "" for taker in takers):
                    found.append(int(process.name))
    return found


def _end_recorded(path: Path) -> None:
    try:
        builder, started, group, group_started = json.loads(path.read_text())
    except (OSError, ValueError, TypeError):
        return
    if start_time(builder) == started:
        return  # it lives
    # A process group's number is not given out again while it has members: without its leader it is still the same one.
    if start_time(group) not in {"", group_started}:
        return
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def start_time(pid: int) -> str:
    """Return when a process started, in the kernel's ticks; empty if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
