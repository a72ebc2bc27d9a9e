"""Migrations in PostgreSQL: the numbers and names of SQLite's, applied once, each all or nothing."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from stoker._version import __version__
from stoker.errors import StoreError
from stoker.store.postgres.address import Address
from stoker.store.postgres.connections import connect
from stoker.store.postgres.schema import MIGRATIONS, check, migrate
from stoker.store.postgres.store import PostgresStore, look
from stoker.store.schema import Migration, migrations
from tests.postgres import PostgresServer

FIRST = Migration(1, "first", "CREATE TABLE a (x text); INSERT INTO a VALUES ('p;q %s')")
SECOND = Migration(2, "second", "ALTER TABLE a ADD COLUMN y integer DEFAULT 2")
BROKEN = Migration(2, "broken", "CREATE TABLE b (x text); CREATE TABLE a (x text)")


@pytest.fixture
def connection(address: Address) -> Iterator[psycopg.Connection]:
    with connect(address, name="test") as opened:
        yield opened


def applied(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    return connection.execute("SELECT number, name, stoker FROM migrations ORDER BY number").fetchall()


def test_both_databases_have_the_same_steps() -> None:
    ours = [(step.number, step.name) for step in migrations(MIGRATIONS)]
    assert ours == [(step.number, step.name) for step in migrations()]


def test_a_new_schema_gets_every_step_and_says_who_made_it(connection: psycopg.Connection, address: Address) -> None:
    assert check(connection, address) == 0
    migrate(connection, address)
    assert [row[0] for row in applied(connection)] == [step.number for step in migrations(MIGRATIONS)]
    assert {row[2] for row in applied(connection)} == {__version__}


@pytest.mark.parametrize("there", range(1, len(migrations(MIGRATIONS))))
def test_every_older_schema_is_brought_forward(connection: psycopg.Connection, address: Address, there: int) -> None:
    migrate(connection, address, steps=migrations(MIGRATIONS)[:there])
    assert check(connection, address) == there
    store = PostgresStore(address)
    assert store.begin_term() == 1
    store.close()
    assert len(applied(connection)) == len(migrations(MIGRATIONS))


def test_an_older_schema_gets_what_it_lacks_once(connection: psycopg.Connection, address: Address) -> None:
    migrate(connection, address, steps=(FIRST,))
    migrate(connection, address, steps=(FIRST, SECOND))
    migrate(connection, address, steps=(FIRST, SECOND))
    assert connection.execute("SELECT * FROM a").fetchall() == [("p;q %s", 2)]
    assert [row[1] for row in applied(connection)] == ["first", "second"]


def test_a_step_that_fails_leaves_nothing_of_itself(connection: psycopg.Connection, address: Address) -> None:
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(connection, address, steps=(FIRST, BROKEN))
    assert [row[1] for row in applied(connection)] == ["first"]
    assert connection.execute("SELECT to_regclass('b')").fetchone() == (None,)
    migrate(connection, address, steps=(FIRST, SECOND))


def test_a_newer_schema_is_refused_naming_both(connection: psycopg.Connection, address: Address) -> None:
    PostgresStore(address).close()
    connection.execute("INSERT INTO migrations VALUES (99, 'of_tomorrow', '9.9.9', 0)")
    for attempt in (look, PostgresStore, PostgresStore.exclusive):
        with pytest.raises(StoreError, match=rf"schema 99, written by Stoker 9\.9\.9; this is Stoker {__version__}"):
            attempt(address)
    assert len(applied(connection)) == 1 + len(migrations(MIGRATIONS))


def test_another_programs_tables_are_left_alone(
    connection: psycopg.Connection, address: Address, postgres: PostgresServer
) -> None:
    connection.execute(f"CREATE SCHEMA {address.schema}".encode())
    connection.execute("CREATE TABLE migrations (id integer)")
    with pytest.raises(StoreError, match="tables of another program"):
        PostgresStore(address)
    assert connection.execute("SELECT count(*) FROM migrations").fetchone() == (0,)
