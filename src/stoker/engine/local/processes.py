"""Processes as the kernel shows them: who they are, who started them, how they ended, and how to end all of them.

The agent is a child subreaper: what its zygotes and workers leave behind becomes its child. Ends are seen through
pidfds, which cannot be confused by a pid that is used again.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 5.0  # for what was killed to be gone: on a busy machine even that takes its turn
KILL_PAUSE_SECONDS = 0.0005  # between two looks at what has still to go, and longer each time
KILL_PAUSE_MAX_SECONDS = 0.02
TRACKER_SECONDS = 1.0  # for a tracker to remove what the killed have left: an interpreter that does a few unlinks
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
libc = ctypes.CDLL(None, use_errno=True)


class Stat(NamedTuple):
    """What ``/proc/<pid>/stat`` says. ``cpu_seconds`` has those of children waited for; ``start`` is in clock ticks."""

    state: str
    ppid: int
    pgrp: int
    session: int
    cpu_seconds: float
    start: int


@dataclass(frozen=True)
class Exit:
    """How a process ended. ``status`` is as of `os.waitpid`, None where only somebody else could know it."""

    status: int | None
    cpu_seconds: float = 0.0
    peak_memory: int = 0


def become_subreaper() -> None:
    """Make orphaned descendants of this process its children."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def read_stat(pid: int) -> Stat | None:
    """Return what is known of a process, None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses; what follows the last one does not.
    f = text[text.rindex(b")") + 2 :].split()
    return Stat(f[0].decode(), int(f[1]), int(f[2]), int(f[3]), sum(map(int, f[11:15])) / TICKS, int(f[19]))


def start_time(pid: int) -> int | None:
    """Return when a living process started, None for one that is gone or a zombie."""
    stat = read_stat(pid)
    return stat.start if stat and stat.state not in "ZX" else None


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - thousands of paths for nothing


def with_environment(items: set[bytes]) -> list[int]:
    """Return the processes that were started with one of these ``NAME=value``."""
    return [pid for pid in pids() if not items.isdisjoint(_environ_items(pid))]


def resident_memory(pid: int) -> int:
    """Return the bytes of a process that are in memory, 0 when it is gone."""
    return _statm(pid)[1] * PAGE


def anonymous_memory(pid: int) -> int:
    """Return those that are neither a file's nor shared memory's; what is still shared with its zygote counts."""
    fields = _statm(pid)
    return (fields[1] - fields[2]) * PAGE


def _statm(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/statm").read_bytes().split()]
    except (FileNotFoundError, ProcessLookupError):
        return [0] * 7


def _environ_items(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # gone, or somebody else's


def descendants(roots: Iterable[int]) -> list[int]:
    """Return all processes below these, by parenthood now."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        if stat := read_stat(pid):
            children.setdefault(stat.ppid, []).append(pid)
    found: list[int] = []
    queue = list(roots)
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def send_signal(pid: int, number: int) -> bool:
    """Signal a process; False when it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # it has become another user's: it is out of our hands
    return True


def signal_group(pgrp: int, number: int) -> None:
    """Signal a process group, if it is there."""
    try:
        os.killpg(pgrp, number)
    except (ProcessLookupError, PermissionError):
        pass


def kill_all(find: Callable[[], Iterable[int]]) -> None:
    """Kill what ``find`` returns until it returns nothing that lives.

    A process may fork between being listed and being killed, so new ones are looked for at once. Trackers of Python's
    multiprocessing end by themselves once all that they serve are gone, and remove their semaphores and shared memory,
    which nobody else would: they have a moment for it.
    """
    killed: dict[int, int | None] = {}  # by pid, with its start: while one exits, its environment reads empty already,
    began = time.monotonic()  # and what was found by a mark in there would be taken for gone
    pause, give_up = KILL_PAUSE_SECONDS, began + KILL_SECONDS
    while (now := time.monotonic()) < give_up:
        found = {pid: start_time(pid) for pid in find()}
        exiting = {pid: start for pid, start in killed.items() if start_time(pid) == start}
        living = {pid: start for pid, start in (found | exiting).items() if start is not None}
        spared = {pid for pid in living if _is_tracker(pid)} if now < began + TRACKER_SECONDS else set()
        if not spared | {pid for pid in living.keys() - spared if send_signal(pid, signal.SIGKILL)}:
            return
        if living.items() <= killed.items():
            time.sleep(pause)
            pause = min(2 * pause, KILL_PAUSE_MAX_SECONDS)
        killed |= living


def _is_tracker(pid: int) -> bool:
    try:
        return b".resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def explain(status: int) -> tuple[str, str]:
    """Return (cause, sentence) for a wait status: ``exit`` or ``signal``."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        words = (signal.strsignal(number) or "unknown").lower()
        return "signal", f"killed by signal {number}" + ("" if words == "killed" else f" ({words})")
    return "exit", f"exit status {os.WEXITSTATUS(status)}"


def reap(pid: int) -> Exit | None:
    """Collect a child that has ended; None when it is not our child or lives."""
    try:
        found, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    if not found:
        return None
    return Exit(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)


def in_session(session: int) -> list[int]:
    """Return the processes of a session."""
    return [pid for pid in pids() if (stat := read_stat(pid)) and stat.session == session]


def zombies(*, session: int) -> set[int]:
    """Return our dead children of other sessions: what workers left behind, and what our own threads still wait for."""
    me = os.getpid()
    found = ((pid, read_stat(pid)) for pid in pids())
    return {pid for pid, stat in found if stat and stat.ppid == me and stat.state == "Z" and stat.session != session}


class Watch:
    """The end of one process, awaited through its pidfd; one that is gone already has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1
        self._ended = asyncio.Event()
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._ended.set()
        else:
            asyncio.get_running_loop().add_reader(self._fd, self._on_end)

    def _on_end(self) -> None:
        self.close()
        self._ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        """Return when the process has ended; as a zombie it may still be there."""
        await self._ended.wait()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
