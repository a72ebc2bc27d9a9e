"""What holds a worker to its grant: a cgroup of version 2 or 1 where we may make one, else watching its memory.

Whichever it is, memory that a worker shares with the zygote it was forked from is not charged to it: pages belong to
who touched them first, and the worker joins its group (or is measured for the first time) right after the fork. CPU is
a weight in proportion to the grant, not a ceiling: an idle core may be used by whoever wants it.

Watching is coarser: it sees anonymous memory every `WATCH_SECONDS`, so a worker may be over its limit for that long;
one huge allocation is refused by ``RLIMIT_DATA`` in the meantime, which the worker sees as a `MemoryError`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stoker.engine.local import processes
from stoker.engine.local.cgroups import Cgroups, writable
from stoker.quantities import format_size

WATCH_SECONDS = 0.15
WATCH_TREE_SECONDS = 1.0  # how often a watched worker's descendants are looked for: that reads all of /proc
STALE_SECONDS = 60.0  # an empty group of another run that is older than this is left over
V1_SHARES_PER_CPU = 1024
V2_WEIGHT_PER_CPU = 100
CORES = os.cpu_count() or 1  # all workers of a run together weigh as much as the machine has cores
RLIMIT_HEADROOM_BYTES = 4 << 30  # reserved but never touched: allocators and thread stacks do that


class Group(Protocol):
    """The confinement of one worker and all that it starts. ``complete``: nothing that it starts can leave it."""

    complete: bool

    def joins(self) -> list[str]:
        """Return the files to which a process writes its pid in order to come in, with all that it will start."""

    def add(self, pid: int) -> None:
        """Take note of the worker's first process, which has joined or is about to."""

    def pids(self) -> list[int]:
        """Return the processes in it: all of them where the group is ``complete``."""

    def exceeded(self) -> str:
        """Return what happened in words if somebody in it was killed for its memory, else nothing."""

    def peak(self) -> int:
        """Return the most bytes that it ever held, 0 if unknown."""

    def remove(self) -> None:
        """Forget it; to be called when nothing in it lives."""


class Limits(Protocol):
    """Makes groups. ``mode`` is ``cgroup2`` · ``cgroup1`` · ``watch``; ``why`` says why it is no better one."""

    mode: str
    why: str

    def open(self, worker: str, *, cpus: float, memory: int) -> Group:
        """Return a worker's group, the one it has already if it was started by an earlier agent."""

    async def close(self) -> None:
        """Remove what is left of this run's groups, and those of runs that are gone."""


def choose_limits(tag: str, *, mode: str = "auto", cgroups: Cgroups | None = None) -> Limits:
    """Return the best means there is on this machine, or the one that ``mode`` names if it can be had."""
    found = cgroups or Cgroups.of_this_process()
    reasons = []
    if mode in ("auto", "cgroup2"):
        parent, why = _v2_parent(found)
        if parent:
            return CgroupLimits("cgroup2", [parent], tag)
        reasons.append(f"cgroup v2: {why}")
    if mode in ("auto", "cgroup1"):
        parents, why = _v1_parents(found)
        if parents:
            return CgroupLimits("cgroup1", parents, tag, why="; ".join(reasons))
        reasons.append(f"cgroup v1: {why}")
    return WatchLimits(why="; ".join(reasons) or "chosen")


def _v1_parents(cgroups: Cgroups) -> tuple[list[Path], str]:
    memory = cgroups.v1.get("memory")
    if memory is None:
        return [], "its memory controller is not mounted"
    if not writable(memory.own):
        return [], f"{memory.own} is not writable by this user"
    cpu = cgroups.v1.get("cpu")
    return [memory.own] + ([cpu.own] if cpu and writable(cpu.own) else []), ""


def _v2_parent(cgroups: Cgroups) -> tuple[Path | None, str]:
    tree = cgroups.unified
    if tree is None:
        return None, "not mounted"
    if "memory" not in _text(tree.mount / "cgroup.controllers").split():
        return None, "the memory controller is not in its tree"
    for directory in [p for p in [tree.own, *tree.own.parents] if p == tree.mount or tree.mount in p.parents]:
        if not writable(directory):
            return None, f"{directory} is not writable by this user (systemd: Delegate=yes hands it over)"
        if _delegates_memory(directory):
            return directory, ""
    return None, "no group above this process hands the memory controller down"


def _delegates_memory(directory: Path) -> bool:
    control = directory / "cgroup.subtree_control"
    if "memory" not in _text(control).split():
        # Refused by the kernel while there are processes in the group itself, as there are in most.
        _try_write(control, "+memory +cpu")
    return "memory" in _text(control).split()


class CgroupLimits:
    """Groups of either version: one directory for the run in each tree, one in it for each worker."""

    def __init__(self, mode: str, parents: list[Path], tag: str, *, why: str = "") -> None:
        self.mode = mode
        self.why = why
        self._parents = parents
        self._roots = [parent / f"stoker-{tag}" for parent in parents]
        self._leftover: list[Path] = []

    def open(self, worker: str, *, cpus: float, memory: int) -> Group:
        # Joining a group of version 1 takes the kernel ten milliseconds. A worker of one core has an ordinary process's
        # weight anyway, so it joins no second one.
        roots = self._roots[:1] if cpus == 1.0 else self._roots
        paths = [root / worker for root in roots]
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        for root in roots[1:]:
            _try_write(root / "cpu.shares", str(V1_SHARES_PER_CPU * CORES))
        if self.mode == "cgroup2":
            _try_write(roots[0] / "cpu.weight", str(min(10_000, V2_WEIGHT_PER_CPU * CORES)))
            _try_write(self._roots[0] / "cgroup.subtree_control", "+memory +cpu")
            return _GroupV2(self, paths, cpus=cpus, memory=memory)
        return _GroupV1(self, paths, cpus=cpus, memory=memory)

    async def close(self) -> None:
        for parent, mine in zip(self._parents, self._roots, strict=True):
            for root in parent.glob("stoker-*"):
                if root == mine or _is_stale(root):
                    self.discard([*(p for p in root.glob("*/") if root == mine or _is_stale(p)), root])

    def discard(self, paths: list[Path]) -> None:
        """Remove groups; those that still hold a dying process are tried again with the next ones."""
        waiting, self._leftover = [*self._leftover, *paths], []
        for path in waiting:
            try:
                path.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                self._leftover.append(path)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False


class _CgroupGroup(ABC):
    """What both versions share: directories, the first of which has the memory controller."""

    complete = True

    def __init__(self, limits: CgroupLimits, paths: list[Path], *, cpus: float, memory: int) -> None:
        self._limits = limits
        self._paths = paths
        self._memory = memory
        self._configure(cpus)

    @abstractmethod
    def _configure(self, cpus: float) -> None:
        """Set the limits of this group."""

    @abstractmethod
    def _kills(self) -> int:
        """Return how often the kernel has killed for memory here."""

    @abstractmethod
    def peak(self) -> int:
        """Return the most bytes that were held at once."""

    def joins(self) -> list[str]:
        return [str(path / "cgroup.procs") for path in self._paths]

    def add(self, pid: int) -> None:
        pass  # it joins by itself, before it runs anything of the user's

    def pids(self) -> list[int]:
        return [int(line) for line in _text(self._paths[0] / "cgroup.procs").split()]

    def exceeded(self) -> str:
        if not self._kills():
            return ""
        return f"over its memory of {format_size(self._memory)} (at most {format_size(self.peak())} were in use)"

    def remove(self) -> None:
        self._limits.discard(self._paths)


class _GroupV1(_CgroupGroup):
    def _configure(self, cpus: float) -> None:
        if self._memory:
            (self._paths[0] / "memory.limit_in_bytes").write_text(str(self._memory))
            # Where swap is accounted, it may not be a way out of the limit.
            _try_write(self._paths[0] / "memory.memsw.limit_in_bytes", str(self._memory))
        for path in self._paths[1:]:
            _try_write(path / "cpu.shares", str(max(2, int(V1_SHARES_PER_CPU * cpus))))

    def _kills(self) -> int:
        return _counter(self._paths[0] / "memory.oom_control", "oom_kill")

    def peak(self) -> int:
        return int(_text(self._paths[0] / "memory.max_usage_in_bytes") or 0)


class _GroupV2(_CgroupGroup):
    def _configure(self, cpus: float) -> None:
        if self._memory:
            (self._paths[0] / "memory.max").write_text(str(self._memory))
            _try_write(self._paths[0] / "memory.swap.max", "0")
        _try_write(self._paths[0] / "cpu.weight", str(min(10_000, max(1, int(V2_WEIGHT_PER_CPU * cpus)))))

    def _kills(self) -> int:
        return _counter(self._paths[0] / "memory.events", "oom_kill")

    def peak(self) -> int:
        return int(_text(self._paths[0] / "memory.peak") or 0)  # since Linux 5.19


class WatchLimits:
    """Looks at the memory of workers that have a limit, and kills those over it. Costs nothing without any."""

    mode = "watch"

    def __init__(self, *, why: str) -> None:
        self.why = why
        self._watched: set[_WatchedGroup] = set()
        self._task: asyncio.Task[None] | None = None

    def open(self, worker: str, *, cpus: float, memory: int) -> Group:
        return _WatchedGroup(self, memory)

    def watch(self, group: _WatchedGroup) -> None:
        self._watched.add(group)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="memory watch")

    def forget(self, group: _WatchedGroup) -> None:
        self._watched.discard(group)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        try:
            while self._watched:
                for group in list(self._watched):
                    group.measure()
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            self._task = None


@dataclass(frozen=True)
class _Seen:
    """A process in a watched group: when it started, and what it shared with its zygote when it came."""

    start: int
    base: int


class _WatchedGroup:
    complete = False

    def __init__(self, limits: WatchLimits, memory: int) -> None:
        self._limits = limits
        self._memory = memory
        self._seen: dict[int, _Seen] = {}
        self._peak = 0
        self._exceeded = False
        self._looked = 0.0

    def joins(self) -> list[str]:
        return []

    def add(self, pid: int) -> None:
        self._see(pid, processes.anonymous_memory(pid))
        if self._memory:
            _refuse_the_absurd(pid, self._memory)
            self._limits.watch(self)

    def _see(self, pid: int, base: int) -> None:
        start = processes.start_time(pid)
        if start is not None and (pid not in self._seen or self._seen[pid].start != start):
            self._seen[pid] = _Seen(start, base)

    def measure(self) -> None:
        """Take one look; over the limit, kill everything in the group."""
        if time.monotonic() - self._looked > WATCH_TREE_SECONDS:
            self._looked = time.monotonic()
            for pid in processes.descendants(self.pids()):
                self._see(pid, 0)
        used = sum(max(0, processes.anonymous_memory(pid) - self._seen[pid].base) for pid in self.pids())
        self._peak = max(self._peak, used)
        if used > self._memory:
            self._exceeded = True
            for pid in self.pids():
                processes.send_signal(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        return [pid for pid, seen in self._seen.items() if processes.start_time(pid) == seen.start]

    def exceeded(self) -> str:
        if not self._exceeded:
            return ""
        return f"over its memory of {format_size(self._memory)} ({format_size(self._peak)} were in use)"

    def peak(self) -> int:
        return self._peak

    def remove(self) -> None:
        self._limits.forget(self)


def _refuse_the_absurd(pid: int, memory: int) -> None:
    try:
        data = _data_bytes(pid) + memory + RLIMIT_HEADROOM_BYTES
        resource.prlimit(pid, resource.RLIMIT_DATA, (data, data))
    except (OSError, ValueError):
        pass  # gone already, or bounded more narrowly by somebody above us


def _data_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[5]) * processes.PAGE


def _counter(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # the file is not there in this version, or the group is gone


def _try_write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError:
        pass  # the process is gone, or the kernel was built without this knob: the rest of the group holds
