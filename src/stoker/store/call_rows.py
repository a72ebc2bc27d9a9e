"""Calls as rows of SQLite: the statements, and what becomes of each dataclass in them.

Every statement is one constant text, so that its connection prepares it once. Tags and errors are JSON in ASCII: an
exception's text may hold half a surrogate pair, which UTF-8 cannot.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from sys import intern
from typing import Any

import msgspec

from stoker.store.base import AcceptedRow, CallRecord, PendingRow, ProgressRow, SettledRow
from stoker.types import CallState, ErrorInfo

CODES = {CallState.SUCCEEDED: 1, CallState.FAILED: 2, CallState.CANCELLED: 3, CallState.REFUSED: 4}
_STATES = {code: state for state, code in CODES.items()}

ACCEPT = """
INSERT INTO calls (seq, id, function, client, priority, created, deadline, parent, tags, payload_blob, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
"""

ORIGIN = """
INSERT INTO origins (seq, method, trace, request, digest)
SELECT seq, ?, ?, ?, ? FROM calls WHERE seq = ? AND id = ? ON CONFLICT (seq) DO NOTHING
"""

PROGRESS = """
INSERT INTO progress (seq, failures, losses, not_before, timeline)
SELECT seq, ?, ?, ?, ? FROM calls WHERE seq = ? AND state = 0
ON CONFLICT (seq) DO UPDATE SET failures = excluded.failures, losses = excluded.losses,
    not_before = excluded.not_before, timeline = excluded.timeline
"""

# First the result, then the state: each is taken from the first row of a call, as long as it is pending.
SETTLE = """
INSERT INTO results (seq, finished, attempts, error, timeline, status, payload_blob, payload)
SELECT seq, ?, ?, ?, ?, ?, ?, ? FROM calls WHERE seq = ? AND id = ? AND state = 0 ON CONFLICT (seq) DO NOTHING
"""
MARK_SETTLED = "UPDATE calls SET state = ? WHERE seq = ? AND id = ? AND state = 0"

PENDING = """
SELECT c.seq, id, function, client, priority, created, deadline, payload, payload_blob, parent, tags,
    method, trace, request, digest, failures, losses, not_before, timeline
FROM calls c INDEXED BY calls_pending LEFT JOIN origins o ON o.seq = c.seq LEFT JOIN progress p ON p.seq = c.seq
WHERE state = 0 AND c.seq > ? ORDER BY c.seq LIMIT ?
"""
PENDING_COUNT = "SELECT count(*) FROM calls INDEXED BY calls_pending WHERE state = 0"

LAST_SEQ = """
SELECT max((SELECT coalesce(max(seq), 0) FROM calls), (SELECT value FROM meta WHERE name = 'last_seq'))
"""
KNOWN = "SELECT id FROM calls WHERE id IN (SELECT value FROM json_each(?))"

NAMED = """
SELECT payload_blob FROM calls WHERE payload_blob <> '' AND payload_blob IN (SELECT value FROM json_each(?1))
UNION SELECT payload_blob FROM results WHERE payload_blob <> '' AND payload_blob IN (SELECT value FROM json_each(?1))
"""

_RECORD = """
SELECT c.seq, id, function, client, priority, created, deadline, {payloads}, c.payload_blob, parent, tags,
    method, trace, request, digest, failures, losses, state, finished, attempts, r.payload_blob, error,
    r.timeline, status, expired
FROM calls c LEFT JOIN origins o ON o.seq = c.seq LEFT JOIN results r ON r.seq = c.seq
LEFT JOIN progress p ON p.seq = c.seq
"""
CALL = _RECORD.format(payloads="c.payload, r.payload") + "WHERE id = ?"
_WITHOUT_PAYLOADS = _RECORD.format(payloads="x'', x''")

EXPIRABLE = """
SELECT r.seq, r.payload_blob, c.payload_blob FROM results r JOIN calls c ON c.seq = r.seq
WHERE expired = ? AND finished < ? ORDER BY finished LIMIT ?
"""
EXPIRE = (
    "UPDATE results SET expired = 1, error = '', timeline = '', payload = x'' WHERE seq = ?",
    "UPDATE calls SET payload = x'' WHERE seq = ?",
)
KEEP_FUNCTION = "INSERT INTO functions (key, spec) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
DROP_VERSIONS = """
DELETE FROM deployments WHERE (app, version) IN (
    SELECT app, version FROM (
        SELECT app, version, row_number() OVER (PARTITION BY app ORDER BY version DESC) AS place
        FROM deployments d WHERE NOT EXISTS (
            SELECT 1 FROM current_deployments c WHERE c.app = d.app AND c.version = d.version
        )
    ) WHERE place > ?
) AND (app, version) NOT IN (
    SELECT json_extract(spec, '$.app'), json_extract(spec, '$.version') FROM functions
    WHERE key IN (SELECT value FROM json_each(?))
)
"""
DROP_ROLLOUTS = """
DELETE FROM rollouts WHERE NOT EXISTS (
    SELECT 1 FROM deployments d WHERE d.app = rollouts.app AND d.version = rollouts.version
)
"""
ROLLOUTS = """
SELECT app, version, kind, parts, state, changed, why FROM rollouts WHERE ? IN ('', app) ORDER BY app, version DESC
"""
PUT_ROLLOUT = """
INSERT OR REPLACE INTO rollouts (app, version, kind, parts, state, changed, why) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
MAKE_CURRENT = "INSERT OR REPLACE INTO current_deployments (app, version) VALUES (?, ?)"
UNUSED = """
SELECT key FROM functions f WHERE key NOT IN (SELECT value FROM json_each(?))
AND NOT EXISTS (SELECT 1 FROM calls WHERE function = f.key)
AND NOT EXISTS (
    SELECT 1 FROM deployments
    WHERE app = json_extract(f.spec, '$.app') AND version = json_extract(f.spec, '$.version')
)
"""
USED_AGAIN = """
UPDATE functions SET unused = NULL WHERE unused IS NOT NULL AND key NOT IN (SELECT value FROM json_each(?))
"""
MARK_UNUSED = "UPDATE functions SET unused = ? WHERE unused IS NULL AND key IN (SELECT value FROM json_each(?))"
DROP_UNUSED = """
DELETE FROM functions WHERE unused <= ? AND key IN (SELECT value FROM json_each(?)) RETURNING key
"""
KEEP_LAST_SEQ = f"UPDATE meta SET value = ({LAST_SEQ}) WHERE name = 'last_seq'"
FORGET = (
    "DELETE FROM results WHERE seq = ?",
    "DELETE FROM progress WHERE seq = ?",
    "DELETE FROM origins WHERE seq = ?",
    "DELETE FROM calls WHERE seq = ?",
)


def newest(function: str, state: CallState | None) -> str:
    """Return the statement for the newest calls of a function, if any, in a state, if any."""
    conditions = ["function = ?"] if function else []
    if state is not None:
        code = CODES.get(state, 0)
        # The second condition is what the partial index says: without it, it is not used.
        conditions.append(f"state = {code}" + (" AND state > 1" if code > 1 else ""))
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return f"{_WITHOUT_PAYLOADS} {where}ORDER BY c.seq DESC LIMIT ?"


def has_origin(row: AcceptedRow) -> bool:
    """Tell whether there is something to keep of where a call came from, which a table of its own has."""
    return bool(row.method or row.trace or row.request or row.digest)


def accept(connection: sqlite3.Connection, rows: Sequence[AcceptedRow]) -> None:
    connection.executemany(
        ACCEPT,
        [
            (
                r.seq,
                r.id,
                r.function,
                r.client,
                r.priority,
                r.created,
                r.deadline,
                r.parent,
                json.dumps(r.tags) if r.tags else "",
                r.payload_blob,
                r.payload,
            )
            for r in rows
        ],
    )
    if told := [(r.method, r.trace, r.request, r.digest, r.seq, r.id) for r in rows if has_origin(r)]:
        connection.executemany(ORIGIN, told)


def progress(connection: sqlite3.Connection, rows: Sequence[ProgressRow]) -> None:
    connection.executemany(PROGRESS, [(r.failures, r.losses, r.not_before, r.timeline, r.seq) for r in rows])


def settle(connection: sqlite3.Connection, rows: Sequence[SettledRow]) -> None:
    connection.executemany(
        SETTLE,
        [
            (r.finished, r.attempts, error_text(r.error), r.timeline, r.status, r.payload_blob, r.payload, r.seq, r.id)
            for r in rows
        ],
    )
    connection.executemany(MARK_SETTLED, [(CODES[r.state], r.seq, r.id) for r in rows])


def pending_row(row: tuple[Any, ...]) -> PendingRow:
    """Build a row to be queued. A million share the few functions and clients that there are."""
    seq, call_id, function, client, priority, created, deadline, payload, blob, parent, tags = row[:11]
    method, trace, request, digest = row[11:15]
    call = AcceptedRow(
        *(seq, call_id, intern(function), intern(client), priority, created, deadline, payload, blob, parent),
        *(_tags(tags), intern(method or ""), trace or "", request or "", digest or ""),
    )
    return PendingRow(call) if row[15] is None else PendingRow(call, *row[15:])


def call_record(row: tuple[Any, ...]) -> CallRecord:
    seq, call_id, function, client, priority, created, deadline, payload, result, blob, parent, tags = row[:12]
    method, trace, request, digest, failures, losses, code = row[12:19]
    call = AcceptedRow(
        *(seq, call_id, function, client, priority, created, deadline, payload, blob, parent, _tags(tags)),
        *(method or "", trace or "", request or "", digest or ""),
    )
    if not code:
        return CallRecord(call, failures or 0, losses or 0)
    finished, attempts, result_blob, error, timeline, status, expired = row[19:]
    if expired:  # the blobs' names are kept for `EXPIRABLE` alone
        call, result_blob = replace(call, payload_blob=""), ""
    settled = SettledRow(
        *(seq, call_id, _STATES[code], finished, attempts, result, result_blob, _error(error), timeline, status)
    )
    return CallRecord(call, failures or 0, losses or 0, settled, bool(expired))


def _tags(text: str) -> dict[str, str]:
    return json.loads(text) if text else {}


def error_text(error: ErrorInfo | None) -> str:
    return json.dumps(vars(error), separators=(",", ":")) if error else ""


def _error(text: str) -> ErrorInfo | None:
    return msgspec.convert(json.loads(text), ErrorInfo) if text else None
