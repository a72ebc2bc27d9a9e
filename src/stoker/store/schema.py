"""The version of a store's schema: what is applied to a file, and what of a newer Stoker is refused."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from stoker._version import __version__
from stoker.errors import StoreError

APPLICATION_ID = 0x53746F6B
"""``Stok`` in SQLite's header: tells a store from any other program's database."""


@dataclass(frozen=True)
class Migration:
    """One step, forward only: ``number`` is the schema's version after it."""

    number: int
    name: str
    sql: str


@cache
def migrations(package: str = "stoker.store.migrations") -> tuple[Migration, ...]:
    """Return the steps that this version of Stoker knows, in order; each database has a package of them."""
    files = [file for file in resources.files(package).iterdir() if file.name.endswith(".sql")]
    steps = [
        Migration(int(file.name[:4]), file.name[5 : -len(".sql")], file.read_text(encoding="utf-8")) for file in files
    ]
    return tuple(sorted(steps, key=lambda step: step.number))


def migrate(connection: sqlite3.Connection, path: Path, *, steps: tuple[Migration, ...] | None = None) -> None:
    """Bring the database at ``path`` to this version, each step in its transaction.

    Raises:
        StoreError: it is another program's, or a newer Stoker's. Nothing was changed in it.
    """
    steps = migrations() if steps is None else steps
    _refuse_strangers(connection, path)
    if _refuse_newer(connection, path, steps) == len(steps):
        return
    for step in steps:
        _apply(connection, path, step, steps)


def _refuse_strangers(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if found != APPLICATION_ID and tables:
        raise StoreError(
            f"{path} is another program's SQLite database, not a store of Stoker. Nothing was changed in it. "
            "Move it away to start afresh, or name another path."
        )


def _refuse_newer(connection: sqlite3.Connection, path: Path, steps: tuple[Migration, ...]) -> int:
    number, written_by = _version(connection)
    if number > len(steps):
        raise StoreError(
            f"{path} has schema {number}, written by Stoker {written_by}; this is Stoker {__version__}, which knows "
            f"schemas up to {len(steps)}. Install Stoker {written_by} or later, or move the file away to start afresh."
        )
    return number


def _version(connection: sqlite3.Connection) -> tuple[int, str]:
    """Return the schema's number and the Stoker that brought it there; ``(0, "")`` for an empty file."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migrations'").fetchone():
        return 0, ""
    row = connection.execute("SELECT number, stoker FROM migrations ORDER BY number DESC LIMIT 1").fetchone()
    return (int(row[0]), str(row[1])) if row else (0, "")


def _apply(connection: sqlite3.Connection, path: Path, step: Migration, steps: tuple[Migration, ...]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have been faster.
        if _refuse_newer(connection, path, steps) < step.number:
            _run(connection, step)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _run(connection: sqlite3.Connection, step: Migration) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations "
        "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, stoker TEXT NOT NULL, applied REAL NOT NULL) STRICT"
    )
    for statement in _statements(step.sql):
        connection.execute(statement)
    connection.execute("INSERT INTO migrations VALUES (?, ?, ?, ?)", (step.number, step.name, __version__, time.time()))


def _statements(sql: str) -> Iterator[str]:
    """Split a script: the driver's own `executescript` would commit before it runs."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
