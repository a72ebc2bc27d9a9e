"""The store of one machine: a SQLite file. See `stoker.store.base` for what each verb promises."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import msgspec

from stoker.store import call_rows, callback_rows
from stoker.store.base import (
    AcceptedRow,
    CallbackRow,
    CallRecord,
    Deployment,
    PendingRow,
    ProgressRow,
    Rollout,
    SettledRow,
    Write,
    no_others,
)
from stoker.store.database import BUSY_TIMEOUT_S, Database
from stoker.types import CallState, FunctionSpec

EXPIRE_ROWS = 1_000
"""Results dropped in one transaction: a write waits some 20 ms for it at most."""

EXPIRE_PAUSE_S = 0.001
"""Between two such transactions, so that a waiting write goes first: Python's locks are not fair."""


class SqliteStore:
    """A `Store` in the file ``path``, made if it is missing; its directory must be there.

    Any thread may use it: one writes at a time, reads go on beside.

    Raises:
        StoreError: the file is damaged, another program's, a newer Stoker's, or not writable. It is left as it is.
    """

    proves_every = 0.0  # the directory's lock keeps others away

    def __init__(self, path: Path, *, busy_timeout: float = BUSY_TIMEOUT_S, durable: bool = True) -> None:
        """``durable=False`` survives the death of any process, and not that of the machine: for what ends with it."""
        self._database = Database(path, busy_timeout=busy_timeout, durable=durable)

    def identity(self) -> str:
        return ""

    def begin_term(self) -> int:
        with self._database.writing() as connection:
            row = connection.execute(
                "UPDATE meta SET value = value + 1 WHERE name = 'epoch' RETURNING value"
            ).fetchone()
            return int(row[0])

    def prove(self, epoch: int) -> None:
        with self._database.writing(epoch):
            pass

    def write(self, epoch: int, rows: Sequence[Write]) -> None:
        accepted = [row for row in rows if isinstance(row, AcceptedRow)]
        progress = [row for row in rows if isinstance(row, ProgressRow)]
        settled = [row for row in rows if isinstance(row, SettledRow)]
        with self._database.writing(epoch) as connection:
            call_rows.accept(connection, accepted)
            call_rows.progress(connection, progress)
            call_rows.settle(connection, settled)

    def pending(self, *, after_seq: int, limit: int) -> list[PendingRow]:
        return [call_rows.pending_row(row) for row in self._rows(call_rows.PENDING, after_seq, max(limit, 0))]

    def last_seq(self) -> int:
        return int(self._rows(call_rows.LAST_SEQ)[0][0])

    def known(self, ids: Sequence[str]) -> set[str]:
        return {row[0] for row in self._rows(call_rows.KNOWN, json.dumps(list(ids)))}

    def named(self, payload_blobs: Collection[str]) -> set[str]:
        return {row[0] for row in self._rows(call_rows.NAMED, json.dumps(list(payload_blobs)))}

    def call(self, call_id: str) -> CallRecord | None:
        rows = self._rows(call_rows.CALL, call_id)
        return call_rows.call_record(rows[0]) if rows else None

    def calls(self, *, function: str = "", state: CallState | None = None, limit: int = 100) -> list[CallRecord]:
        parameters = [function] if function else []
        rows = self._rows(call_rows.newest(function, state), *parameters, max(limit, 0))
        return [call_rows.call_record(row) for row in rows]

    def pending_count(self) -> int:
        return int(self._rows(call_rows.PENDING_COUNT)[0][0])

    def expire(self, epoch: int, *, finished_before: float, now: float | None = None) -> list[str]:
        kept_s = max((time.time() if now is None else now) - finished_before, 0.0)
        blobs = self._in_batches(epoch, 1, finished_before - kept_s)
        return blobs + self._in_batches(epoch, 0, finished_before)

    def put_callback(self, epoch: int, row: CallbackRow) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(callback_rows.PUT, callback_rows.parameters(row))

    def drop_callback(self, epoch: int, call_id: str) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(callback_rows.DROP, (call_id,))

    def callback(self, call_id: str) -> CallbackRow | None:
        rows = self._rows(callback_rows.ONE, call_id)
        return callback_rows.callback_row(rows[0]) if rows else None

    def callbacks(self, *, open_only: bool = False, limit: int) -> list[CallbackRow]:
        rows = self._rows(callback_rows.OPEN if open_only else callback_rows.NEWEST, limit)
        return [callback_rows.callback_row(row) for row in rows]

    def expire_callbacks(self, epoch: int, *, over_before: float) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(callback_rows.EXPIRE, (over_before,))

    def put_function(self, epoch: int, spec: FunctionSpec) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(call_rows.KEEP_FUNCTION, (spec.key, msgspec.json.encode(spec).decode()))

    def function(self, key: str) -> FunctionSpec | None:
        rows = self._rows("SELECT spec FROM functions WHERE key = ?", key)
        return msgspec.json.decode(rows[0][0], type=FunctionSpec) if rows else None

    def functions(self) -> list[FunctionSpec]:
        rows = self._rows("SELECT spec FROM functions ORDER BY key")
        return [msgspec.json.decode(row[0], type=FunctionSpec) for row in rows]

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
        with self._database.writing(epoch) as connection:
            version = 1 + _last_version(connection, app)
            specs = tuple(replace(spec, version=version, run_id="") for spec in functions)
            connection.execute(
                "INSERT INTO deployments (app, version, created, functions, tags) VALUES (?, ?, ?, ?, ?)",
                (app, version, now, msgspec.json.encode(specs).decode(), json.dumps(tags or {})),
            )
            if rollout is None:
                connection.execute(call_rows.MAKE_CURRENT, (app, version))
            else:
                connection.execute(call_rows.PUT_ROLLOUT, astuple(replace(rollout, version=version)))
            connection.executemany(call_rows.PUT_ROLLOUT, [astuple(one) for one in others(version)])
            kept = [(spec.key, msgspec.json.encode(spec).decode()) for spec in specs]
            connection.executemany(call_rows.KEEP_FUNCTION, kept)
        return Deployment(app, version, now, specs, rollout is None, dict(tags or {}))

    def undeploy(self, epoch: int, app: str, *rollouts: Rollout) -> bool:
        with self._database.writing(epoch) as connection:
            connection.executemany(call_rows.PUT_ROLLOUT, [astuple(one) for one in rollouts])
            return connection.execute("DELETE FROM current_deployments WHERE app = ?", (app,)).rowcount > 0

    def deployments(self, *, app: str = "") -> list[Deployment]:
        rows = self._rows(
            "SELECT app, version, created, functions, c.version IS NOT NULL, tags FROM deployments d "
            "LEFT JOIN current_deployments c USING (app, version) WHERE ? IN ('', app) "
            "ORDER BY created DESC, version DESC, app",
            app,
        )
        return [_deployment(row) for row in rows]

    def put_rollout(self, epoch: int, rollout: Rollout, *others: Rollout, makes_current: bool = False) -> None:
        with self._database.writing(epoch) as connection:
            connection.executemany(call_rows.PUT_ROLLOUT, [astuple(one) for one in (rollout, *others)])
            if makes_current:
                connection.execute(call_rows.MAKE_CURRENT, (rollout.app, rollout.version))

    def rollouts(self, *, app: str = "") -> list[Rollout]:
        return [Rollout(*row) for row in self._rows(call_rows.ROLLOUTS, app)]

    def prune(
        self, epoch: int, *, in_use: Collection[str], old_versions: int, now: float, unused_for: float
    ) -> list[str]:
        with self._database.writing(epoch) as connection:
            used = json.dumps(list(in_use))
            connection.execute(call_rows.DROP_VERSIONS, (old_versions, used))
            connection.execute(call_rows.DROP_ROLLOUTS)
            unused = [row[0] for row in connection.execute(call_rows.UNUSED, (used,))]
            keys = json.dumps(unused)
            connection.execute(call_rows.USED_AGAIN, (keys,))
            connection.execute(call_rows.MARK_UNUSED, (now, keys))
            dropped = connection.execute(call_rows.DROP_UNUSED, (now - unused_for, keys)).fetchall()
        return [row[0] for row in dropped]

    def close(self) -> None:
        self._database.close()

    def _rows(self, statement: str, *parameters: str | float) -> list[tuple[Any, ...]]:
        with self._database.reading() as connection:
            return connection.execute(statement, parameters).fetchall()

    def _in_batches(self, epoch: int, expired: int, finished_before: float) -> list[str]:
        """Take the calls settled before then one stage further: from kept to expired, or from expired to forgotten."""
        blobs: list[str] = []
        while True:
            with self._database.writing(epoch) as connection:
                batch = connection.execute(call_rows.EXPIRABLE, (expired, finished_before, EXPIRE_ROWS)).fetchall()
                _drop(connection, [(row[0],) for row in batch], forget=bool(expired))
            # Named again when they are forgotten: a server that ended in between has not deleted them.
            blobs += [blob for row in batch for blob in row[1:] if blob]
            if len(batch) < EXPIRE_ROWS:
                return blobs
            time.sleep(EXPIRE_PAUSE_S)


def _drop(connection: sqlite3.Connection, seqs: list[tuple[int]], *, forget: bool) -> None:
    if not seqs:
        return
    if forget:
        connection.execute(call_rows.KEEP_LAST_SEQ)
    for statement in call_rows.FORGET if forget else call_rows.EXPIRE:
        connection.executemany(statement, seqs)


def _last_version(connection: sqlite3.Connection, app: str) -> int:
    (version,) = connection.execute(
        "SELECT coalesce(max(version), 0) FROM deployments WHERE app = ?", (app,)
    ).fetchone()
    return int(version)


def _deployment(row: tuple[Any, ...]) -> Deployment:
    app, version, created, functions, current, tags = row
    specs = msgspec.json.decode(functions, type=tuple[FunctionSpec, ...])
    return Deployment(app, version, created, specs, bool(current), json.loads(tags))
