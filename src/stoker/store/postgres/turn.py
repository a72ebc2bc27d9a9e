"""Whose turn it is: one server at a time works on a store, by an advisory lock on a session of its own.

The lock decides who may begin; the epoch in each transaction (`connections`) makes sure that who began earlier ends.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg import Connection

from stoker.errors import StoreError
from stoker.store.base import StoreUnavailable
from stoker.store.postgres.address import Address

POLL_S = 0.5
"""How often a standby tries. What ends without a word is noticed by the database after `SILENCE_S`, then by this."""

_KEY = "hashtextextended('stoker turn ' || %s, 0)"
_TRY = f"SELECT pg_try_advisory_lock({_KEY})"
_HOLDER = f"""
SELECT a.application_name, to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS'), host(a.client_addr), l.pid
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND l.classid::bigint = (({_KEY} >> 32) & 4294967295) AND l.objid::bigint = ({_KEY} & 4294967295)
"""
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND pid = %s"

Connect = Callable[[Address, str], Connection]


def server_name() -> str:
    """Return what the sessions of one store are named by: machine, process, and a word that no other has.

    A name in PostgreSQL has 63 bytes, of which `stoker server` takes some.
    """
    host = socket.gethostname().encode("ascii", "replace").decode()[:24]
    return f"{host} pid {os.getpid()} {secrets.token_hex(3)}"


class Turn:
    """See the module. Not for several threads at once: the store's writing lock keeps them apart."""

    def __init__(self, address: Address, *, name: str, connect: Connect) -> None:
        self._address = address
        self._name = f"stoker server {name}"
        self._connect = connect
        self._session: Connection | None = None

    def take(self) -> str:
        """Take the turn if it is free; else return who has it: machine, process, since when.

        Raises:
            StoreError: the database cannot be reached.
        """
        session = self._connect(self._address, self._name)
        try:
            if _one(session, _TRY, self._address.schema):
                self._session = session
                return ""
            holder = self._holder(session)
        except psycopg.Error as error:
            raise StoreUnavailable(f"{self._address.shown} could not be asked whose turn it is: {error}") from error
        finally:
            if self._session is not session:
                session.close()
        return holder

    def wait(self, waiting: Callable[[str], None]) -> None:
        """Wait until it is this server's turn; ``waiting`` is told who has it, whenever that changes."""
        told = ""
        while holder := self._taken_or_away():
            if holder != told:
                waiting(holder)
                told = holder
            time.sleep(POLL_S)

    def prove(self) -> None:
        """Make sure that the turn is still this server's; one that was lost with its connection is taken again.

        Raises:
            StoreUnavailable: it could not be taken: the database is away, or another server was faster.
        """
        if self._session is not None and _is_silent(self._session):
            return
        self.give_up()
        if holder := self.take():
            raise StoreUnavailable(
                f"The connection that kept the store {self._address.shown} for this server was lost, and {holder} has "
                "it now. This server ends as soon as that one has begun."
            )

    def give_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _taken_or_away(self) -> str:
        try:
            return self.take()
        except StoreUnavailable as error:
            return f"nobody that could be asked ({error})"

    def _holder(self, session: Connection) -> str:
        schema = self._address.schema
        row = session.execute(_HOLDER, (schema, schema)).fetchone()
        if row is None:
            return "a server that is just ending"
        name, since, address, pid = row
        if name == self._name:  # our own session, whose other end has not noticed that it broke
            with suppress(psycopg.Error):
                session.execute(_END, (name, pid))
            return "an earlier session of this server"
        who = (name or "").removeprefix("stoker ").rpartition(" ")[0] or "a server of another database user"
        return f"{who}{f' at {address}' if address else ''}, since {since or 'an unknown time'} UTC"


def held_by_another(address: Address, holder: str) -> StoreError:
    return StoreError(
        f"Another server works on the store {address.shown}: {holder}. Use that one, stop it (`stoker server stop` "
        "there), start this one with --standby to take over when it is gone, or name another schema (?schema=…)."
    )


def _one(session: Connection, statement: str, schema: str) -> bool:
    row = session.execute(statement, (schema,)).fetchone()
    return bool(row and row[0])


def _is_silent(session: Connection) -> bool:
    """Tell whether nothing has happened to an idle connection: its end, and keepalives that failed, can be read."""
    if session.closed:
        return False
    poll = select.poll()
    poll.register(session.fileno(), select.POLLIN)
    return not poll.poll(0)
