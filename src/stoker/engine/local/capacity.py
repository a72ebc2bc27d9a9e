"""The node's capacity, shared by all Stoker programs of a user through one locked file.

Each entry is what one worker holds, under the process that holds it: the agent while the worker starts, then the worker
itself, so that a killed agent's workers still count. An entry ends with its process. The file is a cache of living
processes and is never synced: after a reboot it means nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stoker.engine.local.node import NodeSize
from stoker.engine.local.processes import start_time
from stoker.engine.local.state_file import read_state, write_state

LOCK_PATIENCE_SECONDS = 0.5  # a holder needs well under a millisecond; one that was stopped may not stop us too
ROUNDING_CPUS = 1e-6


class CapacityBusy(Exception):
    """The file is locked by a process that does not give it back."""


@dataclass(frozen=True)
class Holding:
    """What one worker holds. ``start`` is its holder's start time: a pid alone may be used again."""

    run: str
    worker: str
    pid: int
    start: int
    cpus: float
    memory: int


def total(holdings: list[Holding]) -> NodeSize:
    return NodeSize(sum(h.cpus for h in holdings), sum(h.memory for h in holdings))


def fits(holdings: list[Holding], *, cpus: float, memory: int, size: NodeSize) -> bool:
    """Tell whether so much more can be held without over-committing the node."""
    held = total(holdings)
    return held.cpus + cpus <= size.cpus + ROUNDING_CPUS and held.memory + memory <= size.memory


def alive(holdings: list[Holding], started: Callable[[int], int | None]) -> list[Holding]:
    """Drop what belongs to processes that are gone; ``started`` tells when a pid's process started."""
    return [h for h in holdings if started(h.pid) == h.start]


class CapacityLedger:
    """One run's view of the shared file. Every method may raise `CapacityBusy`."""

    def __init__(self, path: Path, *, run: str, size: NodeSize) -> None:
        self._path = path
        self._run = run
        self._size = size
        self._stamp: tuple[int, int] | None = None

    def reserve(self, worker: str, *, cpus: float, memory: int) -> bool:
        """Hold so much for a worker that is about to start; False when it does not fit now."""
        with self._locked() as held:
            others = [h for h in held if not self._mine(h, worker)]
            if not fits(others, cpus=cpus, memory=memory, size=self._size):
                return False
            self._write([*others, self._holding(worker, os.getpid(), cpus, memory)])
            return True

    def hand_over(self, worker: str, pid: int) -> None:
        """Let a worker's process hold what was reserved for it."""
        with self._locked() as held:
            start = start_time(pid)
            if start is None:
                return  # it is gone already, and its exit will release this
            self._write([replace(h, pid=pid, start=start) if self._mine(h, worker) else h for h in held])

    def adopt(self, worker: str, pid: int, *, cpus: float, memory: int) -> None:
        """Hold what a worker that runs already has, whether or not it fits."""
        with self._locked() as held:
            others = [h for h in held if not self._mine(h, worker)]
            self._write([*others, self._holding(worker, pid, cpus, memory)])

    def lend(self, worker: str, *, cpus: float) -> None:
        """Change how many cores a worker holds: none while it only waits for others, its own again after that.

        Taking them back may over-commit the node for as long as who borrowed them runs.
        """
        with self._locked() as held:
            self._write([replace(h, cpus=cpus) if self._mine(h, worker) else h for h in held])

    def release(self, worker: str) -> None:
        with self._locked() as held:
            self._write([h for h in held if not self._mine(h, worker)])

    def release_all(self) -> None:
        """Drop everything that this run holds."""
        with self._locked() as held:
            self._write([h for h in held if h.run != self._run])

    def others(self) -> NodeSize:
        """Return what other runs hold."""
        with self._locked() as held:
            return total([h for h in held if h.run != self._run])

    def left_by_others(self) -> NodeSize:
        """Return what other runs leave of the node."""
        others = self.others()
        return NodeSize(max(0.0, self._size.cpus - others.cpus), max(0, self._size.memory - others.memory))

    def touched(self) -> bool:
        """Tell whether the file was written since the last time that this was asked; costs one stat."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        stamp = (found.st_mtime_ns, found.st_ino)
        changed, self._stamp = stamp != self._stamp, stamp
        return changed

    def forget_stamp(self) -> None:
        """Have the next `touched` say yes: what it told of was not read."""
        self._stamp = None

    def _mine(self, holding: Holding, worker: str) -> bool:
        return holding.run == self._run and holding.worker == worker

    def _holding(self, worker: str, pid: int, cpus: float, memory: int) -> Holding:
        return Holding(self._run, worker, pid, start_time(pid) or 0, cpus, memory)

    @contextmanager
    def _locked(self) -> Iterator[list[Holding]]:
        fd = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd)
            yield alive(_parse(self._path), start_time)
        finally:
            os.close(fd)

    def _write(self, holdings: list[Holding]) -> None:
        write_state(self._path, [vars(holding) for holding in holdings])


def _lock(fd: int) -> None:
    give_up = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise CapacityBusy("another Stoker process holds the node's capacity file and does not go on") from None
            time.sleep(0.001)


def _parse(path: Path) -> list[Holding]:
    try:
        return [Holding(**one) for one in read_state(path) or []]
    except (ValueError, TypeError):
        return []  # written by another version: its holders fill it again as they start workers
