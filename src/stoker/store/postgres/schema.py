"""The version of a store's schema in PostgreSQL: what is applied, and what of a newer Stoker is refused.

The steps have the numbers and names of SQLite's (`stoker.store.schema`), so a schema's number means the same in both.
"""

from __future__ import annotations

import time

from psycopg import Connection

from stoker._version import __version__
from stoker.errors import StoreError
from stoker.store.postgres.address import Address
from stoker.store.schema import Migration, migrations

MIGRATIONS = "stoker.store.postgres.migrations"

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('stoker migrations ' || %s, 0))"
_TABLE = """
CREATE TABLE IF NOT EXISTS migrations
(number integer PRIMARY KEY, name text NOT NULL, stoker text NOT NULL, applied double precision NOT NULL)
"""
_STRANGERS = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
"""
_OURS = """
SELECT 1 FROM information_schema.columns
WHERE table_schema = %s AND table_name = 'migrations' AND column_name = 'stoker'
"""


def migrate(connection: Connection, address: Address, *, steps: tuple[Migration, ...] | None = None) -> None:
    """Bring the schema to this version, each step in its transaction. One server at a time does; others wait.

    Raises:
        StoreError: it is another program's, or a newer Stoker's. Nothing was changed in it.
    """
    steps = migrations(MIGRATIONS) if steps is None else steps
    if check(connection, address, steps=steps) == len(steps):
        return
    for step in steps:
        with connection.transaction():
            connection.execute(_LOCK, (address.schema,))
            # Asked again under the lock: another server may have been faster.
            if check(connection, address, steps=steps) < step.number:
                _run(connection, address, step)


def check(connection: Connection, address: Address, *, steps: tuple[Migration, ...] | None = None) -> int:
    """Return the schema's version, 0 where nothing is there yet; change nothing.

    Raises:
        StoreError: as for `migrate`.
    """
    steps = migrations(MIGRATIONS) if steps is None else steps
    number, written_by = _version(connection, address)
    if number > len(steps):
        raise StoreError(
            f"The store {address.shown} has schema {number}, written by Stoker {written_by}; this is Stoker "
            f"{__version__}, which knows schemas up to {len(steps)}. Install Stoker {written_by} or later, or name "
            "another schema (?schema=…) to start afresh."
        )
    return number


def _version(connection: Connection, address: Address) -> tuple[int, str]:
    """Return the schema's number and the Stoker that brought it there; ``(0, "")`` for an empty one."""
    if connection.execute(_OURS, (address.schema,)).fetchone():
        row = connection.execute("SELECT number, stoker FROM migrations ORDER BY number DESC LIMIT 1").fetchone()
        return (int(row[0]), str(row[1])) if row else (0, "")
    row = connection.execute(_STRANGERS, (address.schema,)).fetchone()
    if row and row[0]:
        raise StoreError(
            f"The schema {address.schema} of {address.shown} has tables of another program, or of this one that this "
            "user may not read, and is not a store of Stoker. Nothing was changed in it. Name another one (?schema=…)."
        )
    return 0, ""


def _run(connection: Connection, address: Address, step: Migration) -> None:
    if step.number == 1:
        # Only where it is missing: even IF NOT EXISTS wants the right to make schemas.
        if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (address.schema,)).fetchone():
            connection.execute(f"CREATE SCHEMA {address.schema}".encode())
        connection.execute(_TABLE)
    connection.execute(step.sql.encode())
    connection.execute(
        "INSERT INTO migrations VALUES (%s, %s, %s, %s)", (step.number, step.name, __version__, time.time())
    )
