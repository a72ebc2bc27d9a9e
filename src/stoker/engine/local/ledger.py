"""What an agent started, written down so that the next agent can adopt it.

Each process is named by pid and start time, so that a pid that is used again is not taken for it. The file is replaced
whole; it is small, and written when something starts or ends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from stoker.engine.local.processes import start_time
from stoker.engine.local.state_file import read_state, write_state

log = logging.getLogger("stoker.agent")


@dataclass(frozen=True)
class WorkerEntry:
    """A worker. ``start`` is its process's start time in clock ticks; ``began`` the time of day, for people."""

    worker: str
    function: str
    label: str
    pid: int
    start: int
    cpus: float
    memory: int
    began: float
    environment: str = ""  # its directory, empty for the caller's own
    code: list[str] = field(default_factory=list)  # names of the unpacked source that it runs from
    grant: str = ""
    is_exclusive: bool = False  # a rank of a gang, or a holder of devices: it must not run twice

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.start


@dataclass(frozen=True)
class LedgerState:
    """The whole file. ``term`` is the highest that this run's agents have obeyed."""

    term: int = 0
    workers: list[WorkerEntry] = field(default_factory=list)


class Ledger:
    """The file and what it holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = _read(path)

    def set_term(self, term: int) -> None:
        if term > self.state.term:
            self._replace(replace(self.state, term=term))

    def add(self, entry: WorkerEntry) -> None:
        self._replace(replace(self.state, workers=[*self._without(entry.worker), entry]))

    def remove(self, worker: str) -> None:
        self._replace(replace(self.state, workers=self._without(worker)))

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)

    def _without(self, worker: str) -> list[WorkerEntry]:
        return [entry for entry in self.state.workers if entry.worker != worker]

    def _replace(self, state: LedgerState) -> None:
        self.state = state
        try:
            write_state(self._path, {"term": state.term, "workers": [vars(entry) for entry in state.workers]})
        except OSError as error:  # a full disk must not keep us from seeing workers off; the next write makes up for it
            log.error("%s could not be written: %s", self._path, error)


def _read(path: Path) -> LedgerState:
    try:
        document = read_state(path)
        if document is None:
            return LedgerState()
        workers = [WorkerEntry(**one) for one in document["workers"]]
        return LedgerState(term=int(document["term"]), workers=workers)
    except (ValueError, TypeError, KeyError):
        return LedgerState()  # another version's: what it started is found by its mark and ended
