"""Migrations: numbered without gaps, applied once, each all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stoker._version import __version__
from stoker.store.schema import APPLICATION_ID, Migration, migrate, migrations
from stoker.store.sqlite import SqliteStore

FIRST = Migration(
    1, "first", "-- a comment; with a semicolon\nCREATE TABLE a (x TEXT);\nINSERT INTO a VALUES ('p;q');\n"
)
SECOND = Migration(2, "second", "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 2")
BROKEN = Migration(2, "broken", "CREATE TABLE b (x);\nCREATE TABLE a (x);\n")


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as opened:
        yield opened


def applied(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
    return connection.execute("SELECT number, name, stoker FROM migrations ORDER BY number").fetchall()


def test_the_steps_that_ship_are_numbered_from_one_without_gaps() -> None:
    assert [step.number for step in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_new_file_gets_every_step_and_says_who_made_it(connection: sqlite3.Connection) -> None:
    migrate(connection, Path("store.db"))
    assert [number for number, _, _ in applied(connection)] == [step.number for step in migrations()]
    assert {stoker for _, _, stoker in applied(connection)} == {__version__}
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def test_an_older_file_gets_what_it_lacks(connection: sqlite3.Connection) -> None:
    migrate(connection, Path("store.db"), steps=(FIRST,))
    migrate(connection, Path("store.db"), steps=(FIRST, SECOND))
    migrate(connection, Path("store.db"), steps=(FIRST, SECOND))
    assert connection.execute("SELECT * FROM a").fetchall() == [("p;q", 2)]
    assert [name for _, name, _ in applied(connection)] == ["first", "second"]


def test_a_step_that_fails_leaves_nothing_of_itself(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        migrate(connection, Path("store.db"), steps=(FIRST, BROKEN))
    assert [name for _, name, _ in applied(connection)] == ["first"]
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'b'").fetchall() == []
    migrate(connection, Path("store.db"), steps=(FIRST, SECOND))


@pytest.mark.parametrize("there", range(1, len(migrations())))
def test_calls_of_every_older_schema_are_read(tmp_path: Path, there: int) -> None:
    path = tmp_path / "store.db"
    older = sqlite3.connect(path, isolation_level=None)
    migrate(older, path, steps=migrations()[:there])
    older.execute("INSERT INTO calls VALUES (7, 0, 'c-7', 'key', 'c', 0, 1.0, NULL, '', '', '', x'61')")
    older.close()
    store = SqliteStore(path)
    assert [(row.call.id, row.call.payload, row.call.method) for row in store.pending(after_seq=0, limit=9)] == [
        ("c-7", b"a", "")
    ]
    store.close()
