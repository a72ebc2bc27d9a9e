"""The store that outlives a machine: a schema in a PostgreSQL database. See `stoker.store.base` for each verb."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import astuple, replace
from typing import Any

import msgspec
from psycopg import Connection

from stoker.errors import StoreError
from stoker.store import callback_rows
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
from stoker.store.call_rows import call_record, pending_row
from stoker.store.postgres import rows as sql
from stoker.store.postgres.address import Address
from stoker.store.postgres.connections import Database, connect
from stoker.store.postgres.errors import translated
from stoker.store.postgres.schema import check
from stoker.store.postgres.turn import Turn, held_by_another, server_name
from stoker.types import CallState, FunctionSpec

EXPIRE_ROWS = 1_000
"""Results dropped in one transaction: a write waits some 20 ms for it at most."""

_PUT_CALLBACK = callback_rows.for_postgres(callback_rows.PUT).encode()
_DROP_CALLBACK = callback_rows.for_postgres(callback_rows.DROP).encode()
_EXPIRE_CALLBACKS = callback_rows.for_postgres(callback_rows.EXPIRE).encode()

PROVE_S = 5.0
"""How often an idle server makes sure that the store is still its own."""


class PostgresStore:
    """A `Store` in the schema that the address names, made if it is missing.

    Any thread may use it: one writes at a time, reads go on beside, on connections of their own. A lost connection is
    `StoreUnavailable`, and is made anew when it is needed next.

    Raises:
        StoreError: no connection, no rights, another program's tables, a newer Stoker's. Nothing was changed.
    """

    proves_every = PROVE_S

    def __init__(self, address: Address, *, turn: Turn | None = None, name: str = "") -> None:
        """With a ``turn``, which must have been taken, nothing is written while it is not this server's."""
        self._database = Database(address, name=name or server_name(), turn=turn)

    @classmethod
    def exclusive(cls, address: Address, *, standby: Callable[[str], None] | None = None) -> PostgresStore:
        """Open the store as the only server, which it stays until it is closed or its process ends.

        ``standby`` has it wait until no other server has it, and is told who has, whenever that changes.

        Raises:
            StoreError: another server works on it and there is no ``standby``; and as for the class.
        """
        name = server_name()
        look(address)
        turn = Turn(address, name=name, connect=_connect)
        if holder := turn.take():
            if standby is None:
                raise held_by_another(address, holder)
            turn.wait(standby)
        try:
            return cls(address, turn=turn, name=name)
        except BaseException:
            turn.give_up()
            raise

    def identity(self) -> str:
        return f"postgresql-{self._rows(sql.IDENTITY)[0][0]:x}"

    def begin_term(self) -> int:
        with self._database.beginning_a_term() as connection:
            row = connection.execute("UPDATE term SET epoch = epoch + 1, written = 0 RETURNING epoch").fetchone()
        if row is None:
            raise StoreError(f"The store {self._database.address.shown} has lost its term: restore it from a backup.")
        return int(row[0])

    def prove(self, epoch: int) -> None:
        """Make sure that the store is still this term's, as an empty transaction does."""
        with self._database.writing(epoch):
            pass

    def write(self, epoch: int, rows: Sequence[Write]) -> None:
        accepted = [row for row in rows if isinstance(row, AcceptedRow)]
        progress = [row for row in rows if isinstance(row, ProgressRow)]
        settled = [row for row in rows if isinstance(row, SettledRow)]
        with self._database.writing(epoch) as connection:
            sql.accept(connection, accepted)
            sql.progress(connection, progress)
            sql.settle(connection, settled)

    def pending(self, *, after_seq: int, limit: int) -> list[PendingRow]:
        return [pending_row(row) for row in self._rows(sql.PENDING, after_seq, max(limit, 0))]

    def last_seq(self) -> int:
        return int(self._rows(sql.LAST_SEQ)[0][0])

    def known(self, ids: Sequence[str]) -> set[str]:
        return {row[0] for row in self._rows(sql.KNOWN, list(ids))}

    def named(self, payload_blobs: Collection[str]) -> set[str]:
        return {row[0] for row in self._rows(sql.NAMED, list(payload_blobs), list(payload_blobs))}

    def call(self, call_id: str) -> CallRecord | None:
        rows = self._rows(sql.CALL, call_id)
        return call_record(rows[0]) if rows else None

    def calls(self, *, function: str = "", state: CallState | None = None, limit: int = 100) -> list[CallRecord]:
        parameters = [function] if function else []
        return [call_record(row) for row in self._rows(sql.newest(function, state), *parameters, max(limit, 0))]

    def pending_count(self) -> int:
        return int(self._rows(sql.PENDING_COUNT)[0][0])

    def expire(self, epoch: int, *, finished_before: float, now: float | None = None) -> list[str]:
        kept_s = max((time.time() if now is None else now) - finished_before, 0.0)
        blobs = self._in_batches(epoch, 1, finished_before - kept_s)
        return blobs + self._in_batches(epoch, 0, finished_before)

    def put_callback(self, epoch: int, row: CallbackRow) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(_PUT_CALLBACK, callback_rows.parameters(row))

    def drop_callback(self, epoch: int, call_id: str) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(_DROP_CALLBACK, (call_id,))

    def callback(self, call_id: str) -> CallbackRow | None:
        rows = self._rows(callback_rows.for_postgres(callback_rows.ONE), call_id)
        return callback_rows.callback_row(rows[0]) if rows else None

    def callbacks(self, *, open_only: bool = False, limit: int) -> list[CallbackRow]:
        statement = callback_rows.for_postgres(callback_rows.OPEN if open_only else callback_rows.NEWEST)
        return [callback_rows.callback_row(row) for row in self._rows(statement, limit)]

    def expire_callbacks(self, epoch: int, *, over_before: float) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(_EXPIRE_CALLBACKS, (over_before,))

    def put_function(self, epoch: int, spec: FunctionSpec) -> None:
        with self._database.writing(epoch) as connection:
            connection.execute(sql.KEEP_FUNCTION, (spec.key, msgspec.json.encode(spec).decode()))

    def function(self, key: str) -> FunctionSpec | None:
        rows = self._rows("SELECT spec FROM functions WHERE key = %s", key)
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
                "INSERT INTO deployments (app, version, created, functions, tags) VALUES (%s, %s, %s, %s, %s)",
                (app, version, now, msgspec.json.encode(specs).decode(), json.dumps(tags or {})),
            )
            if rollout is None:
                connection.execute(sql.MAKE_CURRENT, (app, version))
            else:
                connection.execute(sql.PUT_ROLLOUT, astuple(replace(rollout, version=version)))
            for other in others(version):
                connection.execute(sql.PUT_ROLLOUT, astuple(other))
            for spec in specs:
                connection.execute(sql.KEEP_FUNCTION, (spec.key, msgspec.json.encode(spec).decode()))
        return Deployment(app, version, now, specs, rollout is None, dict(tags or {}))

    def undeploy(self, epoch: int, app: str, *rollouts: Rollout) -> bool:
        with self._database.writing(epoch) as connection:
            for rollout in rollouts:
                connection.execute(sql.PUT_ROLLOUT, astuple(rollout))
            return connection.execute("DELETE FROM current_deployments WHERE app = %s", (app,)).rowcount > 0

    def deployments(self, *, app: str = "") -> list[Deployment]:
        return [_deployment(row) for row in self._rows(sql.DEPLOYMENTS, app)]

    def put_rollout(self, epoch: int, rollout: Rollout, *others: Rollout, makes_current: bool = False) -> None:
        with self._database.writing(epoch) as connection:
            for each in (rollout, *others):
                connection.execute(sql.PUT_ROLLOUT, astuple(each))
            if makes_current:
                connection.execute(sql.MAKE_CURRENT, (rollout.app, rollout.version))

    def rollouts(self, *, app: str = "") -> list[Rollout]:
        return [Rollout(*row) for row in self._rows(sql.ROLLOUTS, app)]

    def prune(
        self, epoch: int, *, in_use: Collection[str], old_versions: int, now: float, unused_for: float
    ) -> list[str]:
        with self._database.writing(epoch) as connection:
            used = list(in_use)
            connection.execute(sql.DROP_VERSIONS, (old_versions, used))
            connection.execute(sql.DROP_ROLLOUTS)
            keys = [row[0] for row in connection.execute(sql.UNUSED, (used,))]
            connection.execute(sql.USED_AGAIN, (keys,))
            connection.execute(sql.MARK_UNUSED, (now, keys))
            dropped = connection.execute(sql.DROP_UNUSED, (now - unused_for, keys)).fetchall()
        return [row[0] for row in dropped]

    def close(self) -> None:
        self._database.close()

    def _rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self._database.read(statement, parameters)

    def _in_batches(self, epoch: int, expired: int, finished_before: float) -> list[str]:
        """Take the calls settled before then one stage further: from kept to expired, or from expired to forgotten."""
        blobs: list[str] = []
        while True:
            with self._database.writing(epoch) as connection:
                batch = connection.execute(sql.EXPIRABLE, (expired, finished_before, EXPIRE_ROWS)).fetchall()
                _drop(connection, [row[0] for row in batch], forget=bool(expired))
            # Named again when they are forgotten: a server that ended in between has not deleted them.
            blobs += [blob for row in batch for blob in row[1:] if blob]
            if len(batch) < EXPIRE_ROWS:
                return blobs


def look(address: Address) -> str:
    """Make sure that a store can be, or is, at this address; change nothing. Return which PostgreSQL answers.

    Raises:
        StoreError: no connection, another program's tables, a newer Stoker's.
    """
    with translated(address), _connect(address, "stoker") as connection:
        check(connection, address)
        return f"PostgreSQL {connection.info.parameter_status('server_version')}"


def _connect(address: Address, name: str) -> Connection:
    return connect(address, name=name)


def _drop(connection: Connection, seqs: list[int], *, forget: bool) -> None:
    if not seqs:
        return
    if forget:
        connection.execute(sql.KEEP_LAST_SEQ.encode())
    for statement in sql.FORGET if forget else sql.EXPIRE:
        connection.execute(statement, (seqs,))


def _last_version(connection: Connection, app: str) -> int:
    row = connection.execute("SELECT coalesce(max(version), 0) FROM deployments WHERE app = %s", (app,)).fetchone()
    return int(row[0]) if row else 0


def _deployment(row: tuple[Any, ...]) -> Deployment:
    app, version, created, functions, current, tags = row
    specs = msgspec.json.decode(functions, type=tuple[FunctionSpec, ...])
    return Deployment(app, version, created, specs, bool(current), json.loads(tags))
