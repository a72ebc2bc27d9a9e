"""What PostgreSQL's errors become: all of them `StoreError`, and those that pass are waited for."""

from __future__ import annotations

import inspect

import psycopg
import pytest
from psycopg import errors

from stoker.errors import StoreError
from stoker.store.base import RowsRefused, StoreUnavailable
from stoker.store.postgres.address import parse
from stoker.store.postgres.errors import translate, translated

ADDRESS = parse("postgresql://me:secret@host/db", option="store")
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, psycopg.Error)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_driver_names_the_store_and_no_password(kind: type[psycopg.Error]) -> None:
    with pytest.raises(StoreError, match=r"postgresql://me:\*\*\*@host/db") as found, translated(ADDRESS):
        raise kind("it said secret")
    assert "it said ***" in str(found.value)


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (errors.AdminShutdown, StoreUnavailable),
        (errors.CrashShutdown, StoreUnavailable),
        (errors.CannotConnectNow, StoreUnavailable),
        (errors.TooManyConnections, StoreUnavailable),
        (errors.DeadlockDetected, StoreUnavailable),
        (errors.LockNotAvailable, StoreUnavailable),
        (errors.IdleInTransactionSessionTimeout, StoreUnavailable),
        (errors.ReadOnlySqlTransaction, StoreUnavailable),
        (psycopg.OperationalError, StoreUnavailable),
        (errors.DiskFull, StoreError),
        (errors.InsufficientPrivilege, StoreError),
        (errors.DataCorrupted, StoreError),
        (errors.UniqueViolation, RowsRefused),
        (errors.NumericValueOutOfRange, RowsRefused),
        (errors.ProgramLimitExceeded, RowsRefused),
        (errors.UndefinedTable, RowsRefused),
        (psycopg.DataError, RowsRefused),
        (UnicodeEncodeError, RowsRefused),
    ],
    ids=lambda kind: kind.__name__,
)
def test_what_passes_is_waited_for_and_what_does_not_is_said(kind: type[Exception], becomes: type[StoreError]) -> None:
    if issubclass(kind, psycopg.Error):
        assert type(translate(kind("words"), ADDRESS)) is becomes
        return
    with pytest.raises(becomes), translated(ADDRESS):
        "\ud800".encode()
