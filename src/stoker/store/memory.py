"""A store in memory, for embedded runs and tests: what `stoker.store.base` promises, but for outliving the process."""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock

from stoker.errors import Fenced, StoreError
from stoker.store.base import (
    AcceptedRow,
    CallbackRow,
    CallRecord,
    Deployment,
    PendingRow,
    ProgressRow,
    Rollout,
    RowsRefused,
    SettledRow,
    Write,
    no_others,
)
from stoker.types import CallState, FunctionSpec


@dataclass
class MemoryBacking:
    """What a file is to the SQLite store: stores opened on one backing see the same rows and fence each other."""

    epoch: int = 0
    last_seq: int = 0
    records: dict[int, CallRecord] = field(default_factory=dict)
    progress: dict[int, ProgressRow] = field(default_factory=dict)
    seqs: dict[str, int] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # the seqs of `records`, ascending
    unsettled: set[int] = field(default_factory=set)
    forgotten_blobs: dict[int, list[str]] = field(default_factory=dict)  # of expired calls, named again when forgotten
    callbacks: dict[str, CallbackRow] = field(default_factory=dict)
    functions: dict[str, FunctionSpec] = field(default_factory=dict)
    unused: dict[str, float] = field(default_factory=dict)  # functions that nothing needs, since when
    deployments: dict[str, list[Deployment]] = field(default_factory=dict)
    rollouts: dict[tuple[str, int], Rollout] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)


class MemoryStore:
    """A `Store` on a backing of its own, or on a shared one."""

    proves_every = 0.0

    def __init__(self, backing: MemoryBacking | None = None) -> None:
        self.backing = backing or MemoryBacking()
        self._closed = False

    def identity(self) -> str:
        return ""

    def begin_term(self) -> int:
        with self._open() as kept:
            kept.epoch += 1
            return kept.epoch

    def prove(self, epoch: int) -> None:
        with self._writing(epoch):
            pass

    def write(self, epoch: int, rows: Sequence[Write]) -> None:
        accepted = [row for row in rows if isinstance(row, AcceptedRow)]
        progress = [row for row in rows if isinstance(row, ProgressRow)]
        settled = [row for row in rows if isinstance(row, SettledRow)]
        with self._writing(epoch) as kept:
            _refuse_taken_seqs(kept, accepted)
            for call in accepted:
                _accept(kept, call)
            kept.progress |= {used.seq: used for used in progress if used.seq in kept.unsettled}
            for end in settled:
                _settle(kept, end)

    def pending(self, *, after_seq: int, limit: int) -> list[PendingRow]:
        with self._open() as kept:
            found: list[PendingRow] = []
            for position in range(bisect_right(kept.order, after_seq), len(kept.order)):
                if len(found) >= limit:
                    break
                if kept.order[position] in kept.unsettled:
                    found.append(_pending(kept, kept.order[position]))
            return found

    def last_seq(self) -> int:
        with self._open() as kept:
            return max(kept.last_seq, kept.order[-1] if kept.order else 0)

    def known(self, ids: Sequence[str]) -> set[str]:
        with self._open() as kept:
            return {call_id for call_id in ids if call_id in kept.seqs}

    def named(self, payload_blobs: Collection[str]) -> set[str]:
        with self._open() as kept:
            found = {blob for blobs in kept.forgotten_blobs.values() for blob in blobs}
            for record in kept.records.values():
                found.add(record.call.payload_blob)
                found.add(record.settled.payload_blob if record.settled else "")
        return found.intersection(payload_blobs) - {""}

    def call(self, call_id: str) -> CallRecord | None:
        with self._open() as kept:
            seq = kept.seqs.get(call_id)
            return None if seq is None else _record(kept, seq)

    def calls(self, *, function: str = "", state: CallState | None = None, limit: int = 100) -> list[CallRecord]:
        with self._open() as kept:
            found: list[CallRecord] = []
            for seq in reversed(kept.order):
                if len(found) >= limit:
                    break
                record = _record(kept, seq)
                if function in ("", record.call.function) and _matches(record, state):
                    found.append(_without_payloads(record))
            return found

    def pending_count(self) -> int:
        with self._open() as kept:
            return len(kept.unsettled)

    def expire(self, epoch: int, *, finished_before: float, now: float | None = None) -> list[str]:
        kept_s = max((time.time() if now is None else now) - finished_before, 0.0)
        blobs: list[str] = []
        with self._writing(epoch) as kept:
            for record in _finished(kept, finished_before - kept_s, expired=True):
                blobs += _forget(kept, record.call)
            for record in _finished(kept, finished_before, expired=False):
                blobs += _expire(kept, record)
        return blobs

    def put_callback(self, epoch: int, row: CallbackRow) -> None:
        with self._writing(epoch) as kept:
            kept.callbacks[row.call_id] = row

    def drop_callback(self, epoch: int, call_id: str) -> None:
        with self._writing(epoch) as kept:
            kept.callbacks.pop(call_id, None)

    def callback(self, call_id: str) -> CallbackRow | None:
        with self._open() as kept:
            return kept.callbacks.get(call_id)

    def callbacks(self, *, open_only: bool = False, limit: int) -> list[CallbackRow]:
        with self._open() as kept:
            found = [row for row in kept.callbacks.values() if not (open_only and row.is_over)]
        return sorted(found, key=lambda row: (-row.created, row.call_id))[:limit]

    def expire_callbacks(self, epoch: int, *, over_before: float) -> None:
        with self._writing(epoch) as kept:
            for row in [row for row in kept.callbacks.values() if row.is_over and row.at < over_before]:
                del kept.callbacks[row.call_id]

    def put_function(self, epoch: int, spec: FunctionSpec) -> None:
        with self._writing(epoch) as kept:
            kept.functions.setdefault(spec.key, spec)

    def function(self, key: str) -> FunctionSpec | None:
        with self._open() as kept:
            return kept.functions.get(key)

    def functions(self) -> list[FunctionSpec]:
        with self._open() as kept:
            return [kept.functions[key] for key in sorted(kept.functions)]

    def deploy(
        self,
        epoch: int,
        app: str,
        functions: Sequence[FunctionSpec],
        *,
        now: float,
        tags: dict[str, str] | None = None,
        rollout: Rollout | None = None,
        others: Callable[[int], Iterable[Rollout]] = no_others,
    ) -> Deployment:
        with self._writing(epoch) as kept:
            older = kept.deployments.get(app, [])
            version = 1 + max((made.version for made in older), default=0)
            specs = tuple(replace(spec, version=version, run_id="") for spec in functions)
            made = Deployment(app, version, now, specs, rollout is None, dict(tags or {}))
            rollouts = [*others(version)]  # before anything is changed: it may fail
            kept.deployments[app] = [*(_none_current(older) if rollout is None else older), made]
            if rollout is not None:
                kept.rollouts[app, version] = replace(rollout, version=version)
            kept.rollouts.update(((one.app, one.version), one) for one in rollouts)
            kept.functions.update((spec.key, spec) for spec in specs)
            return made

    def undeploy(self, epoch: int, app: str, *rollouts: Rollout) -> bool:
        with self._writing(epoch) as kept:
            kept.rollouts.update(((one.app, one.version), one) for one in rollouts)
            older = kept.deployments.get(app, [])
            if older:
                kept.deployments[app] = _none_current(older)
            return any(version.current for version in older)

    def deployments(self, *, app: str = "") -> list[Deployment]:
        with self._open() as kept:
            found = [version for versions in kept.deployments.values() for version in versions]
        found.sort(key=lambda version: version.app)
        found.sort(key=lambda version: (version.created, version.version), reverse=True)
        return [version for version in found if app in ("", version.app)]

    def put_rollout(self, epoch: int, rollout: Rollout, *others: Rollout, makes_current: bool = False) -> None:
        with self._writing(epoch) as kept:
            kept.rollouts.update(((one.app, one.version), one) for one in (rollout, *others))
            if makes_current:
                kept.deployments[rollout.app] = [
                    replace(made, current=made.version == rollout.version)
                    for made in kept.deployments.get(rollout.app, [])
                ]

    def rollouts(self, *, app: str = "") -> list[Rollout]:
        with self._open() as kept:
            found = sorted(kept.rollouts.values(), key=lambda one: (one.app, -one.version))
        return [one for one in found if app in ("", one.app)]

    def prune(
        self, epoch: int, *, in_use: Collection[str], old_versions: int, now: float, unused_for: float
    ) -> list[str]:
        with self._writing(epoch) as kept:
            used = {(spec.app, spec.version) for key, spec in kept.functions.items() if key in in_use}
            for app, versions in kept.deployments.items():
                old = [made.version for made in versions if not made.current]
                dropped = {(app, version) for version in old[: max(0, len(old) - old_versions)]} - used
                kept.deployments[app] = [made for made in versions if (app, made.version) not in dropped]
            there = {(made.app, made.version) for versions in kept.deployments.values() for made in versions}
            kept.rollouts = {key: one for key, one in kept.rollouts.items() if key in there}
            needed = {*in_use, *(record.call.function for record in kept.records.values())}
            needed |= {key for key, spec in kept.functions.items() if (spec.app, spec.version) in there}
            kept.unused = {key: kept.unused.get(key, now) for key in kept.functions if key not in needed}
            gone = [key for key, since in kept.unused.items() if since <= now - unused_for]
            for key in gone:
                del kept.functions[key], kept.unused[key]
            return gone

    def close(self) -> None:
        self._closed = True

    @contextmanager
    def _open(self) -> Iterator[MemoryBacking]:
        if self._closed:
            raise StoreError("The store in memory is closed.")
        with self.backing.lock:
            yield self.backing

    @contextmanager
    def _writing(self, epoch: int) -> Iterator[MemoryBacking]:
        with self._open() as kept:
            if kept.epoch != epoch:
                raise Fenced(f"Term {epoch} of the server may not write: term {kept.epoch} has taken the store over.")
            yield kept


def _refuse_taken_seqs(kept: MemoryBacking, rows: Sequence[AcceptedRow]) -> None:
    """Check before anything is written, so that all rows are or none."""
    new: dict[int, str] = {}
    ids: set[str] = set()
    for row in rows:
        if row.id in kept.seqs or row.id in ids:
            continue
        if row.seq in kept.records or row.seq in new:
            raise RowsRefused(f"Another call has the seq {row.seq} of {row.id}; none of these rows was kept.")
        new[row.seq] = row.id
        ids.add(row.id)


def _accept(kept: MemoryBacking, row: AcceptedRow) -> None:
    if row.id in kept.seqs:
        return
    kept.records[row.seq] = CallRecord(row, 0, 0)
    kept.seqs[row.id] = row.seq
    kept.unsettled.add(row.seq)
    insort(kept.order, row.seq)


def _settle(kept: MemoryBacking, row: SettledRow) -> None:
    record = kept.records.get(row.seq)
    if record is None or record.settled is not None or record.call.id != row.id:
        return
    kept.records[row.seq] = replace(record, settled=row)
    kept.unsettled.discard(row.seq)


def _record(kept: MemoryBacking, seq: int) -> CallRecord:
    used = kept.progress.get(seq)
    record = kept.records[seq]
    return record if used is None else replace(record, failures=used.failures, losses=used.losses)


def _pending(kept: MemoryBacking, seq: int) -> PendingRow:
    call = kept.records[seq].call
    used = kept.progress.get(seq)
    return (
        PendingRow(call)
        if used is None
        else PendingRow(call, used.failures, used.losses, used.not_before, used.timeline)
    )


def _matches(record: CallRecord, state: CallState | None) -> bool:
    if state is None:
        return True
    if record.settled is None:
        return not state.settled
    return record.settled.state is state


def _without_payloads(record: CallRecord) -> CallRecord:
    settled = record.settled and replace(record.settled, payload=b"")
    return replace(record, call=replace(record.call, payload=b""), settled=settled)


def _finished(kept: MemoryBacking, before: float, *, expired: bool) -> list[CallRecord]:
    return [
        record
        for record in kept.records.values()
        if record.settled and record.expired is expired and record.settled.finished < before
    ]


def _expire(kept: MemoryBacking, record: CallRecord) -> list[str]:
    settled = record.settled
    if settled is None:
        return []
    blobs = [blob for blob in (settled.payload_blob, record.call.payload_blob) if blob]
    kept.forgotten_blobs[record.call.seq] = blobs
    kept.records[record.call.seq] = replace(
        record,
        call=replace(record.call, payload=b"", payload_blob=""),
        settled=replace(settled, payload=b"", payload_blob="", error=None, timeline=""),
        expired=True,
    )
    return blobs


def _forget(kept: MemoryBacking, call: AcceptedRow) -> list[str]:
    kept.last_seq = max(kept.last_seq, kept.order[-1])
    kept.order.pop(bisect_right(kept.order, call.seq) - 1)
    del kept.records[call.seq], kept.seqs[call.id]
    kept.progress.pop(call.seq, None)
    return kept.forgotten_blobs.pop(call.seq)


def _none_current(versions: Sequence[Deployment]) -> list[Deployment]:
    return [replace(version, current=False) for version in versions]
