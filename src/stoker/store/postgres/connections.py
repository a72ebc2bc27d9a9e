"""Connections to one PostgreSQL database: how they are made, who may use one when, what a transaction guarantees.

One connection writes, under a lock; others read, each thread with its own while it reads. A connection that breaks is
replaced when it is needed next: whoever needed it meanwhile has a `StoreUnavailable`, and tries again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from stoker.errors import Fenced, StoreError
from stoker.store.base import StoreUnavailable
from stoker.store.postgres.address import Address
from stoker.store.postgres.errors import closed, not_connected, translated
from stoker.store.postgres.schema import migrate
from stoker.store.postgres.turn import Turn

CONNECT_TIMEOUT_S = 5
"""How long a database is waited for that does not answer; one that refuses says so at once."""

SILENCE_S = 12
"""After so long without a sign of life from the other machine a connection counts as broken, at both ends."""

IDLE_IN_TRANSACTION_S = 15
"""The database ends our transaction when we say nothing for so long: a server that was stopped holds nobody up."""

READ_TIMEOUT_S = 30
LOCK_TIMEOUT_S = 20
"""How long a transaction waits for another one's row: longer than one that was left behind lives."""

OUTCOME_S = 20.0
"""How long a commit whose answer was lost is asked after, before its writer is told that nobody knows."""

RETRY_S = 0.2
AWAY_S = 0.5
"""After a failed connection nobody tries another one for so long: readers are told at once, and hold nothing up."""

IDLE_READERS = 4
"""Reading connections kept open; more are opened while more threads read at once."""

_DEFAULTS = {
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "keepalives": "1",
    "keepalives_idle": "4",
    "keepalives_interval": "2",
    "keepalives_count": "4",
    "tcp_user_timeout": str(1000 * SILENCE_S),
}
_SESSION = {
    "synchronous_commit": "on",  # durable when it returns, whatever the database's own setting is
    "tcp_keepalives_idle": "4",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": str(1000 * SILENCE_S),
    "idle_in_transaction_session_timeout": str(1000 * IDLE_IN_TRANSACTION_S),
    "lock_timeout": str(1000 * LOCK_TIMEOUT_S),
    "timezone": "UTC",
}

FENCE = "UPDATE term SET written = written + 1 WHERE epoch = %s RETURNING written"
TERM = "SELECT epoch, written FROM term FOR UPDATE"
_END_GHOSTS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND usename = current_user AND pid <> pg_backend_pid()
"""


def connect(address: Address, *, name: str, **session: str) -> Connection:
    """Open a connection in autocommit mode, with the store's schema first.

    ``name`` is shown to whoever looks at the database's sessions; 63 bytes at most.

    Raises:
        StoreUnavailable: no connection was made. The message says why.
        StoreError: the URL has a parameter that libpq does not know.
    """
    given = dict(address.parameters)
    settings = {"search_path": address.schema, **_SESSION, **session}
    options = " ".join([given.pop("options", ""), *(f"-c {key}={value}" for key, value in settings.items())]).strip()
    wanted = {**_DEFAULTS, **given, "options": options, "application_name": name, "client_encoding": "UTF8"}
    try:
        return psycopg.connect(make_conninfo("", **wanted), autocommit=True)
    except psycopg.ProgrammingError as error:
        raise StoreError(f"{address.shown} cannot be used: {address.without_secrets(str(error).strip())}.") from error
    except psycopg.Error as error:
        raise not_connected(error, address) from error


class Database:
    """The writing connection and the readers of one store. Every method may raise `StoreError`.

    With a `Turn` no transaction begins unless this server is known to be the only one.

    Raises:
        StoreError: it cannot be reached, is another program's, of a newer version, or not this user's to write.
    """

    def __init__(self, address: Address, *, name: str, turn: Turn | None = None) -> None:
        self.address = address
        self._name = name
        self._turn = turn
        self._writing = Lock()
        self._guard = Lock()
        self._readers: list[Connection] = []
        self._away_until = 0.0
        self._closed = False
        self._writer = self._open_writer()
        try:
            with translated(address):
                migrate(self._writer, address)
        except BaseException:
            self._writer.close()
            raise

    @contextmanager
    def writing(self, epoch: int) -> Iterator[Connection]:
        """Run the block as one transaction, durable after it; anything raised in it leaves no trace.

        Where the connection breaks, it is found out whether the commit was made, and only what was not is an error.

        Raises:
            Fenced: ``epoch`` is not the store's current one; the row that says so is locked until the commit.
            StoreUnavailable: nothing was written, or (where the message says so) nobody could tell.
        """
        with self._writing, translated(self.address):
            connection = self._ready(epoch)
            with self._broken_is_closed(connection):
                number = self._begin(connection, epoch)
            try:
                yield connection
            except BaseException:
                _roll_back(connection)
                raise
            try:
                with self._broken_is_closed(connection):
                    connection.execute("COMMIT", prepare=False)
            except psycopg.Error as error:
                if not connection.closed or not self._was_written(epoch, number, error):
                    raise

    @contextmanager
    def beginning_a_term(self) -> Iterator[Connection]:
        """Run the block, which makes a new term, as one transaction."""
        with self._writing, translated(self.address):
            connection = self._ready()
            with self._broken_is_closed(connection), connection.transaction():
                yield connection

    def read(self, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of one question, asked on a connection of this thread's own while it lasts."""
        with translated(self.address):
            kept = self._kept_reader()
            if kept is not None:
                with suppress(psycopg.OperationalError):  # it broke while nobody used it
                    return self._read_on(kept, statement, parameters)
            return self._read_on(self._open_reader(), statement, parameters)

    def close(self) -> None:
        """Close all connections, and give up the turn last. Closing twice is fine."""
        with self._writing, self._guard:
            self._closed = True
            for connection in [*self._readers, self._writer]:
                connection.close()
            self._readers.clear()
            if self._turn is not None:
                self._turn.give_up()

    def _ready(self, epoch: int | None = None) -> Connection:
        """Return the writing connection, made anew if it broke; only while it is this server's turn."""
        if self._closed:
            raise closed(self.address)
        if self._turn is not None:
            try:
                self._turn.prove()
            except StoreUnavailable:
                self._refuse_overtaken(epoch)
                raise
        if self._writer.closed:
            self._writer = self._open_writer()
        return self._writer

    def _refuse_overtaken(self, epoch: int | None) -> None:
        """A turn that cannot be taken again may be gone for good: a newer term tells."""
        (current,) = self.read("SELECT epoch FROM term", ())[0]
        if epoch is not None and current != epoch:
            raise self._fenced(epoch, int(current))

    def _begin(self, connection: Connection, epoch: int) -> int:
        """Begin a transaction of this term; return the number that the term's row has counted for it."""
        connection.execute("BEGIN", prepare=False)
        row = connection.execute(FENCE, (epoch,)).fetchone()
        if row is None:
            current = connection.execute("SELECT epoch FROM term").fetchone()
            connection.execute("ROLLBACK")
            raise self._fenced(epoch, current[0] if current else 0)
        return int(row[0])

    def _was_written(self, epoch: int, number: int, error: psycopg.Error) -> bool:
        """Tell whether a transaction was committed whose connection broke before the answer came.

        Its session is ended and its row waited for, so that what is read is the last word.
        """
        give_up = time.monotonic() + OUTCOME_S
        while True:
            try:
                self._writer = self._open_writer()
                found = self._writer.execute(TERM).fetchone() or (0, 0)
                break
            except (StoreUnavailable, psycopg.OperationalError) as reason:
                if time.monotonic() > give_up or self._closed:
                    raise StoreUnavailable(
                        f"The connection to the store {self.address.shown} broke within a commit, and the database has "
                        f"not come back to say whether it was made ({reason}). To do the same again is safe."
                    ) from error
                time.sleep(RETRY_S)
        if found[0] != epoch:
            raise self._fenced(epoch, int(found[0])) from error
        return int(found[1]) >= number

    def _fenced(self, epoch: int, current: int) -> Fenced:
        return Fenced(
            f"Term {epoch} of the server may not write to {self.address.shown}: term {current} has taken it over. "
            "End this server; the newer one has its calls."
        )

    @contextmanager
    def _broken_is_closed(self, connection: Connection) -> Iterator[None]:
        """Close a connection on which the block failed for another reason than its statements."""
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction):
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
                connection.close()
            raise

    def _open_writer(self) -> Connection:
        connection = self._connect(f"stoker writer {self._name}")
        try:
            # What broke may still be at work: its transaction ends, one way or the other, before ours begins.
            connection.execute(_END_GHOSTS, (f"stoker writer {self._name}",))
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reader(self) -> Connection:
        with self._guard:
            if self._closed:
                raise closed(self.address)
        return self._connect(
            f"stoker reader {self._name}",
            default_transaction_read_only="on",
            statement_timeout=str(1000 * READ_TIMEOUT_S),
        )

    def _connect(self, name: str, **session: str) -> Connection:
        if time.monotonic() < self._away_until:
            raise StoreUnavailable(f"The store {self.address.shown} was not to be reached a moment ago. Try again.")
        try:
            return connect(self.address, name=name, **session)
        except StoreUnavailable:
            self._away_until = time.monotonic() + AWAY_S
            raise

    def _read_on(self, connection: Connection, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return connection.cursor(binary=True).execute(statement.encode(), parameters).fetchall()
        except psycopg.OperationalError:
            connection.close()
            with self._guard:  # those that lie idle have broken with it
                idle, self._readers = self._readers, []
            for reader in idle:
                reader.close()
            raise
        finally:
            self._give_back(connection)

    def _kept_reader(self) -> Connection | None:
        with self._guard:
            if self._closed:
                raise closed(self.address)
            return self._readers.pop() if self._readers else None

    def _give_back(self, connection: Connection) -> None:
        with self._guard:
            if not self._closed and not connection.closed and len(self._readers) < IDLE_READERS:
                self._readers.append(connection)
                return
        connection.close()


def _roll_back(connection: Connection) -> None:
    try:
        connection.execute("ROLLBACK")
    except psycopg.Error:
        connection.close()
