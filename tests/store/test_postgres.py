"""The PostgreSQL store: the contract, and the same rows as the memory store for any sequence of operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import StoreError
from stoker.store.base import RowsRefused
from stoker.store.postgres import rows as sql
from stoker.store.postgres.address import Address
from stoker.store.postgres.store import PostgresStore
from stoker.testing.seams import MemoryStore
from stoker.types import CallState
from tests.postgres import PostgresServer, drop_schema, fresh_schema
from tests.store.contract import StoreContract, StoreOpener
from tests.store.operations import OPERATION, Operation, everything
from tests.store.rows import accepted, progress, settled, spec


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def opened(self, address: Address) -> Iterator[StoreOpener]:
        stores: list[PostgresStore] = []

        def open_one() -> PostgresStore:
            stores.append(PostgresStore(address))
            return stores[-1]

        yield open_one
        for store in stores:
            store.close()


@pytest.fixture
def store(address: Address) -> Iterator[PostgresStore]:
    opened = PostgresStore(address)
    yield opened
    opened.close()


def test_what_was_written_is_there_after_a_restart(address: Address) -> None:
    store = PostgresStore(address)
    epoch = store.begin_term()
    store.write(epoch, [accepted(1, payload=b"x"), accepted(2), settled(2, payload=b"y"), progress(1, 1, 1)])
    store.put_function(epoch, spec())
    made = store.deploy(epoch, "digits", [spec()], now=1.0)
    before = (store.pending(after_seq=0, limit=9), store.calls(), store.functions())
    identity = store.identity()
    store.close()
    again = PostgresStore(address)
    assert (again.pending(after_seq=0, limit=9), again.calls(), again.functions()) == before
    assert again.deployments() == [made]
    assert again.begin_term() == epoch + 1
    assert again.identity() == identity
    again.close()


def test_two_schemas_of_one_database_share_nothing(address: Address, postgres: PostgresServer) -> None:
    other = replace(address, schema=fresh_schema())
    first, second = PostgresStore(address), PostgresStore(other)
    first.write(first.begin_term(), [accepted(1)])
    assert second.begin_term() == 1
    assert second.last_seq() == 0
    assert first.identity() != second.identity()
    first.close()
    second.close()
    drop_schema(postgres, other.schema)


def test_every_commit_is_synchronous_whatever_the_database_says(store: PostgresStore) -> None:
    with store._database.writing(store.begin_term()) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert connection.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("15s",)


def test_a_reader_never_waits_for_a_transaction(store: PostgresStore) -> None:
    epoch = store.begin_term()
    store.write(epoch, [accepted(1)])
    with store._database.writing(epoch) as connection:
        connection.execute("DELETE FROM calls")
        assert store.pending_count() == 1
    assert store.pending_count() == 0


@pytest.mark.parametrize(
    "row",
    [
        accepted(1, priority=2**70),
        accepted(1, priority=2**40),
        accepted(1, client="\ud800"),
        accepted(1, client="a\0b"),
        accepted(1, created=float("nan")),
    ],
)
def test_a_number_or_text_that_no_column_holds_is_refused(store: PostgresStore, row: Any) -> None:
    epoch = store.begin_term()
    with pytest.raises(RowsRefused, match="refused"):
        store.write(epoch, [accepted(2), row])
    assert store.pending_count() == 0
    store.write(epoch, [accepted(2)])


@pytest.mark.parametrize(
    ("statement", "parameters", "index"),
    [
        (sql.PENDING, (0, 10), "calls_pending"),
        (sql.KNOWN, (["x"],), "calls_id"),
        (sql.CALL, ("c-1",), "calls_id"),
        (sql.EXPIRABLE, (0, 1.0, 10), "results_finished"),
        (sql.newest("f", None), ("f", 10), "calls_function"),
        (sql.newest("", CallState.QUEUED), (10,), "calls_pending"),
        (sql.newest("", CallState.FAILED), (10,), "calls_unsuccessful"),
    ],
)
def test_no_question_reads_all_rows(
    store: PostgresStore, statement: str, parameters: tuple[Any, ...], index: str
) -> None:
    with store._database.writing(store.begin_term()) as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        connection.execute("SET LOCAL enable_bitmapscan = off")
        plan = [row[0] for row in connection.execute(f"EXPLAIN {statement}".encode(), parameters)]
    assert any(index in step for step in plan), plan


def test_no_other_session_than_this_users_is_ended(address: Address, postgres: PostgresServer) -> None:
    with postgres.connect() as other:
        store = PostgresStore(address)
        store.begin_term()
        store.close()
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_a_transaction_that_fails_leaves_the_connection_usable(store: PostgresStore) -> None:
    epoch = store.begin_term()
    with pytest.raises(StoreError), store._database.writing(epoch) as connection:
        connection.execute("SELECT nothing FROM nowhere")
    with pytest.raises(ZeroDivisionError), store._database.writing(epoch):
        raise ZeroDivisionError
    store.write(epoch, [accepted(1)])


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(operations=st.lists(st.tuples(OPERATION, st.booleans()), max_size=10))
def test_any_sequence_leaves_what_it_leaves_in_memory(
    operations: list[tuple[Operation, bool]], address: Address, postgres: PostgresServer
) -> None:
    place = replace(address, schema=fresh_schema())
    disk, memory = PostgresStore(place), MemoryStore()
    try:
        epoch = disk.begin_term()
        assert memory.begin_term() == epoch
        for operation, in_an_old_term in operations:
            term = epoch - 1 if in_an_old_term else epoch
            outcome = operation.outcome(disk, term)
            assert operation.outcome(memory, term) == outcome, operation.verb
            if operation.verb == "begin_term" and isinstance(outcome, int):
                epoch = outcome
            assert everything(disk) == everything(memory), operation.verb
    finally:
        disk.close()
        drop_schema(postgres, place.schema)
