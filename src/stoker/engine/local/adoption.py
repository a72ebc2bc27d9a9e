"""Taking over what an earlier agent of the same run started, and ending what belongs to nobody."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stoker.engine.local import marks, processes
from stoker.engine.local.capacity import CapacityBusy
from stoker.engine.local.config import RUN_MARKER, AgentConfig
from stoker.engine.local.ledger import Ledger, WorkerEntry
from stoker.engine.local.log_files import Header
from stoker.engine.local.processes import Watch
from stoker.engine.local.starts import Stock
from stoker.engine.local.workers import Running
from stoker.errors import NotFound
from stoker.images.code_holds import CodeHold
from stoker.images.environment import read_environment
from stoker.protocol.messages import WorkerExited

UNSEEN = "it ended while no agent was there to see how"


def adopt(stock: Stock, ledger: Ledger, *, report: Callable[[Any], None]) -> None:
    """Take over the workers in the ledger that run; report the others, and end what the ledger does not know."""
    known = ledger.state.workers
    for entry in known:
        if entry.alive:
            _take_over(stock, entry)
        else:
            stock.logs.add(_header(entry), adopted=True)
            stock.logs.finish(entry.worker)
            ledger.remove(entry.worker)
            report(WorkerExited(entry.worker, "unknown", UNSEEN))
    living = {entry.worker: entry.pid for entry in known if entry.alive}
    processes.kill_all(lambda: strangers(stock.config, living))


def strangers(config: AgentConfig, workers: dict[str, int]) -> list[int]:
    """Return this run's processes that belong to none of these workers (their pids by id)."""
    own = {os.getpid(), os.getppid()}
    found = set(processes.with_environment({os.fsencode(f"{RUN_MARKER}={config.marker}")})) - own
    if not found:
        return []
    kept = set(workers.values()) | set(processes.descendants(workers.values()))
    for worker, pid in workers.items():
        kept |= {*marks.marked(worker), *processes.in_session(pid)}
    return sorted(found - kept)


def end_everything(config: AgentConfig) -> None:
    """Kill every process that bears this run's mark."""
    processes.kill_all(lambda: strangers(config, {}))


def _take_over(stock: Stock, entry: WorkerEntry) -> None:
    group = stock.limits.open(entry.worker, cpus=entry.cpus, memory=entry.memory)
    group.add(entry.pid)
    try:
        stock.capacity.adopt(entry.worker, entry.pid, cpus=entry.cpus, memory=entry.memory)
    except CapacityBusy:
        pass  # its own entry, made when it started, still holds
    stock.logs.add(_header(entry), adopted=True)
    code = CodeHold(stock.home / "bundles", entry.code)
    release = _hold(entry)

    def gone() -> None:
        release()
        code.release()

    stock.workers.add(Running(entry, group, Watch(entry.pid), on_gone=gone))


def _hold(entry: WorkerEntry) -> Callable[[], None]:
    environment = read_environment(Path(entry.environment)) if entry.environment else None
    if environment is None:
        return lambda: None
    try:
        return environment.hold().release
    except NotFound:
        return lambda: None  # pruned in the moment between the two agents


def _header(entry: WorkerEntry) -> Header:
    return Header(entry.worker, entry.function, entry.label, entry.began)
