"""The SQLite store: the contract, and the same rows as the memory store for any sequence of operations."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.errors import StoreError
from stoker.store import call_rows, database
from stoker.store.sqlite import SqliteStore
from stoker.testing.seams import MemoryStore
from stoker.types import CallState
from tests.store.contract import StoreContract, StoreOpener
from tests.store.operations import OPERATION, Operation, everything
from tests.store.rows import accepted, progress, settled, spec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def opened(self, path: Path) -> Iterator[StoreOpener]:
        stores: list[SqliteStore] = []

        def open_one() -> SqliteStore:
            stores.append(SqliteStore(path))
            return stores[-1]

        yield open_one
        for store in stores:
            store.close()


def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    store = SqliteStore(path)
    epoch = store.begin_term()
    store.write(epoch, [accepted(1, payload=b"x"), accepted(2), settled(2, payload=b"y"), progress(1, 1, 1)])
    store.put_function(epoch, spec())
    made = store.deploy(epoch, "digits", [spec()], now=1.0)
    before = (store.pending(after_seq=0, limit=9), store.calls(), store.functions())
    store.close()
    again = SqliteStore(path)
    assert (again.pending(after_seq=0, limit=9), again.calls(), again.functions()) == before
    assert again.deployments() == [made]
    assert again.begin_term() == epoch + 1
    again.close()


def test_the_file_and_its_wal_are_for_this_user_only(path: Path) -> None:
    store = SqliteStore(path)
    store.begin_term()
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}
    store.close()


def test_a_closed_store_is_one_file(path: Path) -> None:
    store = SqliteStore(path)
    store.write(store.begin_term(), [accepted(1)])
    store.calls()
    store.close()
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]


def test_every_commit_is_synced(path: Path) -> None:
    store = SqliteStore(path)
    with store._database.writing() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_a_reader_never_waits_for_a_transaction(path: Path) -> None:
    store = SqliteStore(path)
    store.write(store.begin_term(), [accepted(1)])
    with store._database.writing() as connection:
        connection.execute("DELETE FROM calls")
        assert store.pending_count() == 1
    assert store.pending_count() == 0
    store.close()


def test_a_connection_that_reads_cannot_write(path: Path) -> None:
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="readonly"), store._database.reading() as connection:
        connection.execute("DELETE FROM calls")
    store.close()


def test_the_wal_stays_bounded_while_readers_overlap_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2 << 20
    monkeypatch.setattr(database, "WAL_LIMIT_BYTES", limit)
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 100)
    store = SqliteStore(path)
    epoch = store.begin_term()
    done = Event()
    sizes: list[int] = []

    def read() -> None:
        while not done.is_set():
            store.pending(after_seq=0, limit=1000)

    readers = [Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for start in range(1, 6_001, 500):
        store.write(epoch, [accepted(seq, payload=b"x" * 1000) for seq in range(start, start + 500)])
        sizes.append(path.with_name("store.db-wal").stat().st_size)
    done.set()
    for reader in readers:
        reader.join()
    assert path.stat().st_size > limit
    assert max(sizes) < 2 * limit
    store.close()


def test_a_reader_that_does_not_end_holds_no_write_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAL_LIMIT_BYTES", 1 << 20)
    monkeypatch.setattr(database, "READERS_WAIT_MS", 1)
    store = SqliteStore(path)
    epoch = store.begin_term()
    store.write(epoch, [accepted(1)])
    wal = path.with_name("store.db-wal")
    with store._database.reading() as connection:
        cursor = connection.execute("SELECT * FROM meta")
        cursor.fetchone()
        for seq in range(2, 7):
            store.write(epoch, [accepted(seq, payload=b"x" * (1 << 20))])
        assert wal.stat().st_size > 4 << 20
        cursor.close()
    store.write(epoch, [accepted(9, payload=b"x" * (1 << 20))])
    assert wal.stat().st_size < 2 << 20
    assert store.pending_count() == 7
    store.close()


@pytest.mark.parametrize(
    ("statement", "parameters", "index"),
    [
        (call_rows.PENDING, (0, 10), "calls_pending"),
        (call_rows.PENDING_COUNT, (), "calls_pending"),
        (call_rows.KNOWN, ("[]",), "calls_id"),
        (call_rows.CALL, ("c-1",), "calls_id"),
        (call_rows.EXPIRABLE, (0, 1.0, 10), "results_finished"),
        (call_rows.newest("f", None), ("f", 10), "calls_function"),
        (call_rows.newest("", CallState.QUEUED), (10,), "calls_pending"),
        (call_rows.newest("", CallState.FAILED), (10,), "calls_unsuccessful"),
    ],
)
def test_no_question_reads_all_rows(path: Path, statement: str, parameters: tuple[Any, ...], index: str) -> None:
    store = SqliteStore(path)
    with store._database.reading() as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    assert any(index in step for step in plan), plan
    assert not any("TEMP B-TREE FOR ORDER BY" in step for step in plan), plan
    store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=st.lists(st.tuples(OPERATION, st.booleans()), max_size=12))
def test_any_sequence_leaves_what_it_leaves_in_memory(operations: list[tuple[Operation, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        disk, memory = SqliteStore(Path(directory) / "store.db"), MemoryStore()
        epoch = disk.begin_term()
        assert memory.begin_term() == epoch
        for operation, in_an_old_term in operations:
            term = epoch - 1 if in_an_old_term else epoch
            outcome = operation.outcome(disk, term)
            assert operation.outcome(memory, term) == outcome, operation.verb
            if operation.verb == "begin_term" and isinstance(outcome, int):
                epoch = outcome
            assert everything(disk) == everything(memory), operation.verb
        disk.close()


def test_a_number_or_text_that_no_column_holds_is_refused(path: Path) -> None:
    store = SqliteStore(path)
    epoch = store.begin_term()
    for row in (accepted(1, priority=2**70), accepted(1, client="\ud800"), accepted(1, created=float("nan"))):
        with pytest.raises(StoreError, match="refused"):
            store.write(epoch, [accepted(2), row])
    assert store.pending_count() == 0
    store.close()


def test_sqlite_is_new_enough() -> None:
    assert sqlite3.sqlite_version_info >= (3, 37), "STRICT tables"
