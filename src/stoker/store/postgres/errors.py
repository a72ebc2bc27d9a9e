"""What PostgreSQL's errors mean to whoever runs the server: each becomes a `StoreError` here and nowhere else.

A code is a SQLSTATE, whose first two characters are its class (https://www.postgresql.org/docs/current/errcodes-appendix.html).
Where no connection is made the driver has the server's words alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from stoker.errors import StoreError
from stoker.store.base import RowsRefused, StoreUnavailable
from stoker.store.postgres.address import Address

_AWAY = (
    "The store {store} cannot be reached ({error}). What was being written is kept and tried again; start the "
    "database, or look at the network between."
)
_BUSY = "The store {store} did not get to it just now ({error}). It is tried again."
_READ_ONLY = (
    "The store {store} takes no writes just now ({error}): it is a standby of the database, or was set read-only. "
    "Name the primary in the URL."
)
_FULL = (
    "No space is left for the store {store} ({error}). What was being written was not kept; "
    "free space on the database's disk, and the store goes on."
)
_FORBIDDEN = (
    "The database refuses its user what the store {store} needs ({error}). Grant it CREATE on the database, or "
    "make the schema and grant it USAGE and CREATE on that; its tables must be the user's own."
)
_REFUSED = "The store {store} refused these rows ({error}); none was kept. This is an error in the server: report it."
_TOO_BIG = "A row is too big for the store {store} ({error}). Big payloads belong into payload files."
_DAMAGED = "The database of the store {store} says that it is damaged ({error}). Its own log says more."
_DISK = "The disk failed under the database of the store {store} ({error}). What was being written was not kept."
_MISUSED = (
    "The store {store} was used in a way that it does not allow ({error}). This is an error in Stoker: report it."
)
_CLOSED = "The store {store} is closed."

_BY_CODE = {
    "25006": _READ_ONLY,
    "42501": _FORBIDDEN,
    "53100": _FULL,
    "54000": _TOO_BIG,
    "55P03": _BUSY,
    "57014": _BUSY,
}
_BY_CLASS = {
    "08": _AWAY,
    "22": _REFUSED,
    "23": _REFUSED,
    "25": _BUSY,
    "28": _FORBIDDEN,
    "40": _BUSY,
    "53": _BUSY,
    "54": _TOO_BIG,
    "55": _BUSY,
    "57": _AWAY,
    "58": _DISK,
    "F0": _DAMAGED,
    "XX": _DAMAGED,
}
_WAITED_FOR = (_AWAY, _BUSY, _READ_ONLY)
_OF_THE_ROWS = (_REFUSED, _TOO_BIG, _MISUSED)

_REFUSALS = (
    ("password authentication failed", "The user or the password is wrong: correct them in the URL."),
    ("no password supplied", "It wants a password: put it into the URL, or into ~/.pgpass."),
    ("no pg_hba.conf entry", "Its pg_hba.conf lets this user not in from here: add a line there."),
    ("role ", "Make the user (`createuser`), or name another one in the URL."),
    ("permission denied for database", "Grant this user CONNECT on the database."),
    ("database ", "Make it (`createdb`), or name another one in the URL."),
    ("too many", "Its max_connections are used up: Stoker needs 4 to 8."),
    ("resolve host", "No such host is known: correct it in the URL."),
    ("translate host name", "No such host is known: correct it in the URL."),
    ("SSL", "See libpq's sslmode, sslrootcert and so on, which the URL may set (?sslmode=require)."),
    ("certificate", "See libpq's sslmode, sslrootcert and so on, which the URL may set (?sslmode=require)."),
)
"""What is in the server's or libpq's words, the first that is found, and what to do."""

_NOT_REACHED = "Start it, or correct the host and the port in the URL."


def closed(address: Address) -> StoreError:
    return StoreError(_CLOSED.format(store=address.shown))


def translate(error: psycopg.Error, address: Address) -> StoreError:
    """Return what happened to the store at this address, and what to do."""
    code = error.sqlstate or ""
    lost = not code and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    if not code and isinstance(error, (psycopg.DataError, psycopg.IntegrityError)):
        advice = _REFUSED  # by the driver itself: a text with a zero, say
    else:
        advice = _AWAY if lost else _BY_CODE.get(code) or _BY_CLASS.get(code[:2], _MISUSED)
    kind = StoreUnavailable if advice in _WAITED_FOR else RowsRefused if advice in _OF_THE_ROWS else StoreError
    return kind(advice.format(store=address.shown, error=_words(error, address)))


def not_connected(error: psycopg.Error, address: Address) -> StoreUnavailable:
    """Return why no connection was made, and what to do."""
    words = _words(error, address)
    advice = next((advice for found, advice in _REFUSALS if found in words), _NOT_REACHED)
    return StoreUnavailable(f"No connection to the store {address.shown} could be made ({words}). {advice}")


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """Raise as `StoreError` whatever PostgreSQL or its driver raise inside the block."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, address) from error
    except (OverflowError, UnicodeEncodeError) as error:  # a number or text that no column can hold
        raise RowsRefused(_REFUSED.format(store=address.shown, error=error)) from error


def _words(error: psycopg.Error, address: Address) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unique = list(dict.fromkeys(line for line in lines if not line.startswith(("Multiple connection attempts", "-"))))
    return address.without_secrets("; ".join(unique[:3])).rstrip(".") or type(error).__name__
