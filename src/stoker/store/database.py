"""One SQLite file: how it is opened, who may use it when, and what a transaction guarantees.

One connection writes, under a lock; others read, each thread with its own while it reads. In WAL mode readers see the
last commit and never block the writer. `synchronous=FULL` makes every commit durable before it returns.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock

from stoker.errors import Fenced, StoreError
from stoker.store.schema import migrate
from stoker.store.sqlite_errors import closed, damaged, translated

BUSY_TIMEOUT_S = 5.0
"""How long another process's transaction is waited for: ours take milliseconds."""

CHECKPOINT_PAGES = 1_000
"""The WAL's length, 4 MB, at which a commit copies it back, some 20 ms. Four times that stalled three times as long and
wrote no more rows a second."""

WAL_LIMIT_BYTES = 64 << 20
"""The WAL's size at which a commit waits for the readers of old rows: while some overlap without end, it only grows."""

READERS_WAIT_MS = 250
"""How long it waits for them. A reader that takes longer is waited for again after as many bytes more."""

WRITER_CACHE_KIB = 32 << 10
READER_CACHE_KIB = 4 << 10

CHECKED_BYTES = 8 << 20
"""Files up to this size are checked when they are opened: some 10 ms. A bigger one speaks up when a page is read."""

IDLE_READERS = 4
"""Reading connections kept open; more are opened while more threads read at once."""

_HEADER = b"SQLite format 3\0"


class Database:
    """An open file. Every method may raise `StoreError`.

    Raises:
        StoreError: not a database, damaged, of a newer version, or not writable. It is left as it was found.
    """

    def __init__(self, path: Path, *, busy_timeout: float = BUSY_TIMEOUT_S, durable: bool = True) -> None:
        self.path = path
        self._synchronous = "FULL" if durable else "OFF"
        self._busy_timeout = busy_timeout
        self._writing = Lock()
        self._readers: list[sqlite3.Connection] = []
        self._guard = Lock()
        self._closed = False
        self._wal = path.with_name(f"{path.name}-wal")
        self._wal_limit = WAL_LIMIT_BYTES
        with translated(path):
            _refuse_garbage(path)
            _create(path)
            self._writer = self._open_writer()

    @contextmanager
    def writing(self, epoch: int | None = None) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction, durable after it; anything raised in it leaves no trace.

        Raises:
            Fenced: ``epoch`` is not the store's current one, read under the same lock as the writes are made.
        """
        with self._writing, translated(self.path):
            if self._closed:
                raise closed(self.path)
            connection = self._writer
            connection.execute("BEGIN IMMEDIATE")
            try:
                if epoch is not None:
                    _check_epoch(connection, epoch, self.path)
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if self._wal.stat().st_size > self._wal_limit:
                self._cut_wal()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection of one's own to the block, which must fetch all that it asks for: an open cursor holds the
        WAL."""
        with translated(self.path):
            connection = self._borrow()
            try:
                yield connection
            finally:
                self._give_back(connection)

    def close(self) -> None:
        """Close all connections; the last one folds the WAL into the file. Closing twice is fine."""
        with self._writing, self._guard, translated(self.path):
            self._closed = True
            for reader in self._readers:
                reader.close()
            self._readers.clear()
            self._writer.close()

    def _cut_wal(self) -> None:
        self._writer.execute(f"PRAGMA busy_timeout = {READERS_WAIT_MS}")
        with suppress(sqlite3.OperationalError):  # the commit stands, whatever the disk says now
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._writer.execute(f"PRAGMA busy_timeout = {int(1000 * self._busy_timeout)}")
        self._wal_limit = self._wal.stat().st_size + WAL_LIMIT_BYTES

    def _borrow(self) -> sqlite3.Connection:
        with self._guard:
            if self._closed:
                raise closed(self.path)
            if self._readers:
                return self._readers.pop()
        return self._open_reader()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._guard:
            if not self._closed and len(self._readers) < IDLE_READERS:
                self._readers.append(connection)
                return
        connection.close()

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            _check(connection, self.path)
            migrate(connection, self.path)
            _use_wal(connection, self.path)
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only = 1")
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
        return connection

    def _connect(self) -> sqlite3.Connection:
        # Transactions are begun by us alone (isolation_level None); the locks above keep threads apart.
        return sqlite3.connect(self.path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False)


def _create(path: Path) -> None:
    """Make the file if it is missing, for this user only: the WAL inherits the mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _refuse_garbage(path: Path) -> None:
    """Look at the header first: SQLite would take a file shorter than its header for a new database.

    Not where the journal of an interrupted first migration lies beside it: SQLite then restores the header from that.
    """
    if not path.exists() or path.with_name(f"{path.name}-journal").exists():
        return
    with path.open("rb") as file:
        found = file.read(100)
    if found and (len(found) < 100 or not found.startswith(_HEADER)):
        raise damaged(path, "it does not begin as a database does")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Read all of a small file. Stores after an unclean end are covered: they are checked as the WAL leaves them."""
    if path.stat().st_size > CHECKED_BYTES:
        return
    with closing(connection.execute("PRAGMA quick_check(1)")) as cursor:
        (verdict,) = cursor.fetchone()
    if verdict != "ok":
        raise damaged(path, f"the check says: {' '.join(verdict.split())}")


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"The file system under {path} cannot share memory, which the store needs: use a local disk.")


def _check_epoch(connection: sqlite3.Connection, epoch: int, path: Path) -> None:
    (current,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    if current != epoch:
        raise Fenced(
            f"Term {epoch} of the server may not write to {path}: term {current} has taken it over. "
            "End this server; the newer one has its calls."
        )
