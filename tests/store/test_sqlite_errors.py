"""Every error of SQLite and its driver becomes a `StoreError`, whatever the verb."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from stoker.errors import StoreError
from stoker.store.base import CallbackRow, Rollout, Store
from stoker.store.sqlite import SqliteStore
from stoker.store.sqlite_errors import ADVICE, translate, translated
from tests.store.rows import accepted, spec

PRIMARY_CODES = re.findall(
    r"\w+",
    """
    ERROR INTERNAL PERM ABORT BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CORRUPT NOTFOUND FULL CANTOPEN PROTOCOL EMPTY
    SCHEMA TOOBIG CONSTRAINT MISMATCH MISUSE NOLFS AUTH FORMAT RANGE NOTADB NOTICE WARNING
    """,
)
"""All result codes of https://www.sqlite.org/rescode.html but OK, ROW and DONE, which are no errors."""

VERBS: dict[str, Callable[[Store], Any]] = {
    "begin_term": lambda store: store.begin_term(),
    "prove": lambda store: store.prove(0),
    "write": lambda store: store.write(0, [accepted(1)]),
    "pending": lambda store: store.pending(after_seq=0, limit=1),
    "last_seq": lambda store: store.last_seq(),
    "known": lambda store: store.known(["c-1"]),
    "named": lambda store: store.named(["c-1.a"]),
    "call": lambda store: store.call("c-1"),
    "calls": lambda store: store.calls(),
    "pending_count": lambda store: store.pending_count(),
    "expire": lambda store: store.expire(0, finished_before=1.0),
    "put_callback": lambda store: store.put_callback(0, CallbackRow("h-1", "https://example.org", "t", 1.0)),
    "drop_callback": lambda store: store.drop_callback(0, "h-1"),
    "callback": lambda store: store.callback("h-1"),
    "callbacks": lambda store: store.callbacks(limit=1),
    "expire_callbacks": lambda store: store.expire_callbacks(0, over_before=1.0),
    "put_function": lambda store: store.put_function(0, spec()),
    "function": lambda store: store.function("key"),
    "functions": lambda store: store.functions(),
    "prune": lambda store: store.prune(0, in_use=[], old_versions=1, now=1.0, unused_for=1.0),
    "deploy": lambda store: store.deploy(0, "app", [spec()], now=1.0),
    "undeploy": lambda store: store.undeploy(0, "app"),
    "deployments": lambda store: store.deployments(),
    "put_rollout": lambda store: store.put_rollout(0, Rollout("app", 1, "canary", 1, "active", 1.0)),
    "rollouts": lambda store: store.rollouts(),
}


def every_kind(root: type[sqlite3.Error] = sqlite3.Error) -> list[type[sqlite3.Error]]:
    return [root, *(kind for child in root.__subclasses__() for kind in every_kind(child))]


class Failing(sqlite3.Connection):
    """A connection whose statements fail, once it is told how."""

    error: sqlite3.Error | None = None

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        if self.error is not None:
            raise self.error
        return super().execute(*arguments)


@pytest.mark.parametrize("name", PRIMARY_CODES)
def test_every_result_code_has_advice(name: str) -> None:
    assert getattr(sqlite3, f"SQLITE_{name}") in ADVICE


@pytest.mark.parametrize("kind", every_kind())
def test_every_error_of_the_driver_names_the_file(kind: type[sqlite3.Error]) -> None:
    with pytest.raises(StoreError, match=r"/some/store\.db") as caught, translated(Path("/some/store.db")):
        raise kind("what it said")
    assert "what it said" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_FULL, "No space is left"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "No space is left"),
        (sqlite3.SQLITE_IOERR_FSYNC, "The disk failed"),
        (sqlite3.SQLITE_CORRUPT_INDEX, "is damaged"),
        (sqlite3.SQLITE_NOTADB, "is damaged"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "cannot be opened for writing"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "held by another process"),
        (99, "report it"),
    ],
)
def test_an_extended_code_says_what_its_primary_one_does(code: int, said: str) -> None:
    error = sqlite3.OperationalError("words")
    error.sqlite_errorcode = code
    assert said in str(translate(error, Path("store.db")))


def test_the_verbs_above_are_all_there_are() -> None:
    verbs = {name for name, member in vars(Store).items() if callable(member) and not name.startswith("_")}
    assert verbs - {"close", "identity"} == set(VERBS)  # the file is its own identity: nothing is asked
    assert get_type_hints(Store.close)["return"] is type(None)


@pytest.mark.parametrize("kind", every_kind())
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_lets_an_error_of_the_driver_through(tmp_path: Path, verb: str, kind: type[sqlite3.Error]) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    store.close()
    with (
        closing(sqlite3.connect(path, factory=Failing)) as writer,
        closing(sqlite3.connect(path, factory=Failing)) as reader,
    ):
        store = SqliteStore(path)
        store._database._writer.close()
        store._database._writer = writer
        store._database._readers[:] = [reader]
        writer.error = reader.error = kind("broken")
        with pytest.raises(StoreError, match="broken"):
            VERBS[verb](store)
        store.close()


def test_closing_translates_too(tmp_path: Path) -> None:
    class Unclosable(sqlite3.Connection):
        def close(self) -> None:
            raise sqlite3.OperationalError("disk I/O error")

    store = SqliteStore(tmp_path / "store.db")
    store._database._readers.append(sqlite3.connect(":memory:", factory=Unclosable))
    with pytest.raises(StoreError, match="disk I/O error"):
        store.close()
    sqlite3.Connection.close(store._database._readers.pop())
    store.close()
