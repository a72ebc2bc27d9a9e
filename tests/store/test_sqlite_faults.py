"""What disks and files do to the SQLite store: each fault has its error, and nothing that was kept is lost."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stoker.errors import StoreError
from stoker.store import database, schema
from stoker.store.sqlite import SqliteStore
from tests.store.rows import accepted, settled
from tests.store.small_disk import SmallDisk, small_disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", size=2 << 20) as mounted:
        yield mounted


def filled(path: Path, calls: int = 500) -> None:
    store = SqliteStore(path)
    store.write(store.begin_term(), [accepted(seq, payload=b"x" * 500) for seq in range(1, calls + 1)])
    store.close()


def cut_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_into_the_header(path: Path) -> None:
    os.truncate(path, 50)


def overwrite_with_text(path: Path) -> None:
    path.write_text("notes on something else\n" * 100)


def overwrite_a_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for page in range(2, 30):
        data[page * 4096 : page * 4096 + 300] = os.urandom(300)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_to_half, cut_into_the_header, overwrite_with_text, overwrite_a_page])
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, damage: Callable[[Path], None]) -> None:
    filled(path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"{path} is damaged.*[Mm]ove it away"):
        SqliteStore(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]


def test_damage_in_a_file_too_big_to_check_is_told_when_it_is_met(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECKED_BYTES", 0)
    filled(path)
    overwrite_a_page(path)
    with pytest.raises(StoreError, match="is damaged"):
        store = SqliteStore(path)
        try:
            store.write(store.begin_term(), [settled(seq) for seq in range(1, 500)])
        finally:
            store.close()


def test_a_store_that_was_moved_away_makes_room_for_a_new_one(path: Path) -> None:
    overwrite_with_text(path)
    with pytest.raises(StoreError):
        SqliteStore(path)
    path.rename(path.with_suffix(".away"))
    filled(path)


def test_another_programs_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's"):
        SqliteStore(path)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_naming_both_versions(path: Path) -> None:
    filled(path)
    known = len(schema.migrations())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO migrations VALUES (?, 'later', '9.8.7', 0)", (known + 1,))
    with pytest.raises(StoreError, match=rf"schema {known + 1}, written by Stoker 9\.8\.7; .*Install Stoker 9\.8\.7"):
        SqliteStore(path)


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=str(tmp_path)):
        SqliteStore(tmp_path)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        SqliteStore(tmp_path / "nowhere" / "store.db")


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    filled(path)


def test_a_full_disk_refuses_and_goes_on_when_there_is_space(disk: SmallDisk) -> None:
    store = SqliteStore(disk.root / "store.db")
    epoch = store.begin_term()
    store.write(epoch, [accepted(1)])
    with disk.full():
        for _ in range(3):
            with pytest.raises(StoreError, match=r"No space is left.*free space"):
                store.write(epoch, [accepted(seq, payload=b"x" * 1000) for seq in range(2, 600)])
        assert store.pending_count() == 1
    store.write(epoch, [accepted(2), settled(1)])
    assert [row.call.seq for row in store.pending(after_seq=0, limit=10)] == [2]
    store.close()
    again = SqliteStore(disk.root / "store.db")
    assert again.pending_count() == 1
    again.close()


def test_a_disk_that_fills_batch_by_batch_keeps_what_was_accepted(disk: SmallDisk) -> None:
    store = SqliteStore(disk.root / "store.db")
    epoch = store.begin_term()
    kept = 0
    with pytest.raises(StoreError, match="No space is left"):
        for seq in range(1, 10_000):
            store.write(epoch, [accepted(seq, payload=b"x" * 3000)])
            kept = seq
    assert kept > 50
    assert store.pending_count() == kept
    store.close()
    again = SqliteStore(disk.root / "store.db")
    assert again.last_seq() == kept
    again.close()


def test_no_space_for_a_new_store_is_told(disk: SmallDisk) -> None:
    with disk.full(), pytest.raises(StoreError, match="No space is left"):
        SqliteStore(disk.root / "store.db")
    filled(disk.root / "store.db", calls=1)


def test_a_read_only_disk_is_refused(disk: SmallDisk) -> None:
    filled(disk.root / "store.db", calls=1)
    with disk.read_only(), pytest.raises(StoreError, match=r"cannot be opened for writing.*writable"):
        SqliteStore(disk.root / "store.db")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_file_is_refused(path: Path) -> None:
    filled(path)
    path.chmod(0o400)
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        SqliteStore(path)


def test_a_transaction_of_another_process_that_does_not_end_is_told(path: Path) -> None:
    store = SqliteStore(path, busy_timeout=0.05)
    epoch = store.begin_term()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="held by another process"):
            store.write(epoch, [accepted(1)])
        other.execute("ROLLBACK")
    store.write(epoch, [accepted(1)])
    store.close()


def test_an_error_within_a_transaction_leaves_no_trace(path: Path) -> None:
    store = SqliteStore(path)
    epoch = store.begin_term()
    with pytest.raises(ZeroDivisionError), store._database.writing(epoch) as connection:
        connection.execute("DELETE FROM meta")
        raise ZeroDivisionError
    store.write(epoch, [accepted(1)])
    store.close()
