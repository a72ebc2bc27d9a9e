"""What SQLite's errors mean to whoever runs the server: each becomes a `StoreError` here and nowhere else.

A code is SQLite's primary result code, the low byte of the extended one (https://www.sqlite.org/rescode.html).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stoker.errors import StoreError
from stoker.store.base import RowsRefused

_DAMAGED = (
    "{path} is damaged or no store at all ({error}). Nothing was changed in it. "
    "Move it away together with {path}-wal and {path}-shm to start afresh, or put a backup in its place."
)
_DISK = "The disk failed under the store {path} ({error}). What was being written was not kept; look at the disk."
_FULL = (
    "No space is left for the store {path} ({error}). What was being written was not kept; "
    "free space on its disk, and the store goes on."
)
_FORBIDDEN = (
    "The store {path} cannot be opened for writing ({error}). Make the file and its directory writable for user {user}."
)
_LOCKED = (
    "The store {path} is held by another process ({error}). End the server that uses it, or give this one another."
)
_REFUSED = "The store {path} refused these rows ({error}); none was kept. This is an error in the server: report it."
_TOO_BIG = "A row is too big for the store {path} ({error}). Big payloads belong into payload files."
_MEMORY = "No memory is left to work on the store {path} ({error})."
_MISUSED = "The store {path} was used in a way that it does not allow ({error}). This is an error in Stoker: report it."
_CLOSED = "The store {path} is closed."

_OF_THE_ROWS = (_REFUSED, _TOO_BIG, _MISUSED)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

ADVICE: dict[int, str] = {
    sqlite3.SQLITE_ERROR: _MISUSED,
    sqlite3.SQLITE_INTERNAL: _MISUSED,
    sqlite3.SQLITE_PERM: _FORBIDDEN,
    sqlite3.SQLITE_ABORT: _MISUSED,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_NOMEM: _MEMORY,
    sqlite3.SQLITE_READONLY: _FORBIDDEN,
    sqlite3.SQLITE_INTERRUPT: _MISUSED,
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTFOUND: _MISUSED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CANTOPEN: _FORBIDDEN,
    sqlite3.SQLITE_PROTOCOL: _LOCKED,
    sqlite3.SQLITE_EMPTY: _MISUSED,
    sqlite3.SQLITE_SCHEMA: _MISUSED,
    sqlite3.SQLITE_TOOBIG: _TOO_BIG,
    sqlite3.SQLITE_CONSTRAINT: _REFUSED,
    sqlite3.SQLITE_MISMATCH: _REFUSED,
    sqlite3.SQLITE_MISUSE: _MISUSED,
    sqlite3.SQLITE_NOLFS: _DISK,
    sqlite3.SQLITE_AUTH: _MISUSED,
    sqlite3.SQLITE_FORMAT: _MISUSED,
    sqlite3.SQLITE_RANGE: _MISUSED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_NOTICE: _MISUSED,
    sqlite3.SQLITE_WARNING: _MISUSED,
}


def closed(path: Path) -> StoreError:
    return StoreError(_CLOSED.format(path=path))


def damaged(path: Path, reason: str) -> StoreError:
    return StoreError(_DAMAGED.format(path=path, error=reason))


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Return what happened to the store at ``path``, and what to do."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the driver itself
        advice = _MISUSED
    elif code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the WAL's index could not grow
        advice = _FULL
    else:
        advice = ADVICE.get(code & 0xFF, _MISUSED)
    kind = RowsRefused if advice in _OF_THE_ROWS else StoreError
    return kind(advice.format(path=path, error=error, user=os.getuid()))


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise as `StoreError` whatever SQLite, its driver or the store's files raise inside the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except MemoryError as error:  # how the driver reports SQLITE_NOMEM
        raise StoreError(_MEMORY.format(path=path, error="out of memory")) from error
    except (OverflowError, UnicodeEncodeError) as error:  # a number or text that no column can hold
        raise RowsRefused(_REFUSED.format(path=path, error=error)) from error
    except OSError as error:
        advice = _FULL if error.errno in _NO_SPACE else _FORBIDDEN
        raise StoreError(advice.format(path=path, error=error, user=os.getuid())) from error
