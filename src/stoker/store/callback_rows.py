"""Callbacks as rows: the statements of both databases, which differ in how a parameter is written."""

from __future__ import annotations

from typing import Any

from stoker.store.base import CallbackRow

COLUMNS = "call_id, url, holder, created, state, attempts, at, said"
PUT = f"""
INSERT INTO callbacks ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (call_id) DO UPDATE SET url = excluded.url, holder = excluded.holder, created = excluded.created,
    state = excluded.state, attempts = excluded.attempts, at = excluded.at, said = excluded.said
"""
DROP = "DELETE FROM callbacks WHERE call_id = ?"
ONE = f"SELECT {COLUMNS} FROM callbacks WHERE call_id = ?"
NEWEST = f"SELECT {COLUMNS} FROM callbacks ORDER BY created DESC, call_id LIMIT ?"
OPEN = f"""
SELECT {COLUMNS} FROM callbacks WHERE state IN ('waiting', 'due') ORDER BY created DESC, call_id LIMIT ?
"""
EXPIRE = "DELETE FROM callbacks WHERE state IN ('delivered', 'failed') AND at < ?"


def for_postgres(statement: str) -> str:
    return statement.replace("?", "%s")


def parameters(row: CallbackRow) -> tuple[Any, ...]:
    text = row.said.encode("utf-8", "replace").decode().replace("\0", "?")  # what a database's text can hold
    return (row.call_id, row.url, row.holder, row.created, row.state, row.attempts, row.at, text)


def callback_row(row: tuple[Any, ...]) -> CallbackRow:
    return CallbackRow(*row)
