"""The workers that run on this node, from the moment that they have a process until everything they started is gone."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stoker.engine.local import marks, processes
from stoker.engine.local.ledger import Ledger, WorkerEntry
from stoker.engine.local.limits import Group
from stoker.engine.local.processes import Exit
from stoker.engine.local.zygotes import RunnerProcess
from stoker.protocol.messages import WorkerExited

SAMPLE_PATIENCE_SECONDS = 5.0  # for a zygote that is alive to say how its worker ended


@dataclass
class Running:
    """One worker. ``parent`` is the zygote that forked it, None for one started fresh or adopted."""

    entry: WorkerEntry
    group: Group
    watch: processes.Watch
    parent: RunnerProcess | None = None
    on_gone: Callable[[], None] = lambda: None
    stopping: str | None = None
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    last_memory: int = 0
    force: asyncio.TimerHandle | None = None
    killers: list[asyncio.Task[None]] = field(default_factory=list)

    def remains(self) -> set[int]:
        """Return the processes that belong to this worker, itself included. Slow where its group is not complete."""
        found = set(self.group.pids())
        if self.group.complete:
            return found
        pid = self.entry.pid
        found |= {*processes.in_session(pid), *marks.marked(self.entry.worker)}
        return found | set(processes.descendants(found))


class Workers:
    """All of them. ``report`` gets exactly one `WorkerExited` for each that was added."""

    def __init__(self, ledger: Ledger, *, scratch: Path, report: Callable[[WorkerExited], None]) -> None:
        """``scratch`` is where each worker's own directory may be."""
        self._ledger = ledger
        self._scratch = scratch
        self._report = report
        self._running: dict[str, Running] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, worker: str) -> bool:
        return worker in self._running

    @property
    def running(self) -> list[Running]:
        return list(self._running.values())

    def add(self, running: Running) -> None:
        """Watch over a worker from here to its end."""
        worker = running.entry.worker
        self._ledger.add(running.entry)
        self._running[worker] = running
        self._tasks[worker] = asyncio.create_task(self._see_off(running), name=f"worker {worker}")

    def stop(self, worker: str, *, grace: float, reason: str) -> None:
        """Terminate a worker now, and kill it and all it started after the grace."""
        running = self._running.get(worker)
        if running is None:
            return
        if running.stopping is None:
            running.stopping = reason
        processes.send_signal(running.entry.pid, signal.SIGTERM if grace > 0 else signal.SIGKILL)
        if running.force is not None:
            running.force.cancel()
        running.force = asyncio.get_running_loop().call_later(max(0.0, grace), self._force, running)

    async def stop_all(self, *, grace: float, reason: str) -> None:
        """Stop all of them, and return when they are gone and reported."""
        for worker in list(self._running):
            self.stop(worker, grace=grace, reason=reason)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def abandon(self) -> None:
        """Let go of them without ending them, as when an agent is replaced under running workers."""
        for running in self._running.values():
            running.watch.close()
        for task in self._tasks.values():
            task.cancel()

    def _force(self, running: Running) -> None:
        running.killers.append(asyncio.create_task(_kill_remains(running), name=f"kill {running.entry.worker}"))

    async def _see_off(self, running: Running) -> None:
        await running.watch.wait()
        found = await _collect(running)
        await _kill_remains(running)
        if running.force is not None:
            running.force.cancel()
        await asyncio.gather(*running.killers)
        message = _exited(running, found)
        running.group.remove()
        worker = running.entry.worker
        if (self._scratch / worker).exists():
            await asyncio.to_thread(shutil.rmtree, self._scratch / worker, ignore_errors=True)
        del self._running[worker], self._tasks[worker]
        self._ledger.remove(worker)
        running.on_gone()
        self._report(message)


async def _kill_remains(running: Running) -> None:
    # Where there is a group for it, a few reads mostly say that there is nothing: a thread would cost more.
    if not running.group.complete or any(processes.start_time(pid) is not None for pid in running.remains()):
        await asyncio.to_thread(processes.kill_all, running.remains)


async def _collect(running: Running) -> Exit:
    """Return how a worker that has ended did so."""
    pid = running.entry.pid
    if running.parent is not None:
        try:
            told = await asyncio.wait_for(running.parent.exited(running.entry.worker), SAMPLE_PATIENCE_SECONDS)
        except TimeoutError:
            told = None  # the zygote hangs, or was stopped by somebody
        if told is not None:
            return Exit(told.status, told.cpu_seconds, told.peak_memory)
    return processes.reap(pid) or Exit(None, running.cpu_seconds, running.peak_memory)


def _exited(running: Running, found: Exit) -> WorkerExited:
    cause, detail = _cause(running, found.status)
    peak = running.group.peak() if cause == "memory" else found.peak_memory
    return WorkerExited(
        worker=running.entry.worker,
        cause=cause,
        detail=detail,
        cpu_seconds=max(found.cpu_seconds, running.cpu_seconds),
        peak_memory=max(peak, running.peak_memory),
    )


def _cause(running: Running, status: int | None) -> tuple[str, str]:
    killed = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
    if killed and (words := running.group.exceeded()):
        return "memory", words
    cause, detail = ("unknown", "it ended, and how is not known: an earlier agent was its parent")
    if status is not None:
        cause, detail = processes.explain(status)
    if running.stopping is not None:
        return "stopped", f"{running.stopping} ({detail})" if running.stopping else detail
    return cause, detail
