"""Calls as rows of PostgreSQL: the statements, and how a batch of dataclasses becomes their parameters.

A batch is one statement with an array for each column, whatever its size. What is read comes in the order of SQLite's
columns, so that `stoker.store.call_rows` makes dataclasses of both. Tags and errors are JSON in ASCII: an exception's
text may hold half a surrogate pair, or a zero, which no text of PostgreSQL can.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from stoker.store.base import AcceptedRow, ProgressRow, SettledRow
from stoker.store.call_rows import CODES, error_text, has_origin
from stoker.types import CallState

ACCEPT = b"""
INSERT INTO calls (seq, id, function, client, priority, created, deadline, parent, tags, payload_blob, payload)
SELECT * FROM unnest(%b::bigint[], %b::text[], %b::text[], %b::text[], %b::integer[], %b::double precision[],
    %b::double precision[], %b::text[], %b::text[], %b::text[], %b::bytea[])
ON CONFLICT (id) DO NOTHING
"""

ORIGIN = b"""
INSERT INTO origins (seq, method, trace, request, digest)
SELECT seq, told.method, told.trace, told.request, told.digest
FROM unnest(%b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[])
    AS told (seq, id, method, trace, request, digest)
JOIN calls USING (seq, id) ON CONFLICT (seq) DO NOTHING
"""

PROGRESS = b"""
INSERT INTO progress (seq, failures, losses, not_before, timeline)
SELECT seq, used.failures, used.losses, used.not_before, used.timeline
FROM unnest(%b::bigint[], %b::integer[], %b::integer[], %b::double precision[], %b::text[])
    AS used (seq, failures, losses, not_before, timeline)
JOIN calls USING (seq) WHERE state = 0
ON CONFLICT (seq) DO UPDATE SET failures = excluded.failures, losses = excluded.losses,
    not_before = excluded.not_before, timeline = excluded.timeline
"""

# The first row of a call that is pending counts: what finds none pending settles nothing.
SETTLE = b"""
WITH settled AS (
    UPDATE calls SET state = ended.state
    FROM unnest(%b::bigint[], %b::text[], %b::smallint[], %b::double precision[], %b::integer[], %b::text[],
        %b::text[], %b::smallint[], %b::text[], %b::bytea[])
        AS ended (seq, id, state, finished, attempts, error, timeline, status, payload_blob, payload)
    WHERE calls.seq = ended.seq AND calls.id = ended.id AND calls.state = 0
    RETURNING ended.*
)
INSERT INTO results (seq, finished, attempts, error, timeline, status, payload_blob, payload)
SELECT seq, finished, attempts, error, timeline, status, payload_blob, payload FROM settled
"""

PENDING = """
SELECT c.seq, id, function, client, priority, created, deadline, payload, payload_blob, parent, tags,
    method, trace, request, digest, failures, losses, not_before, timeline
FROM calls c LEFT JOIN origins o ON o.seq = c.seq LEFT JOIN progress p ON p.seq = c.seq
WHERE state = 0 AND c.seq > %s ORDER BY c.seq LIMIT %s
"""
PENDING_COUNT = "SELECT count(*) FROM calls WHERE state = 0"
IDENTITY = "SELECT value FROM meta WHERE name = 'identity'"
LAST_SEQ = """
SELECT greatest((SELECT coalesce(max(seq), 0) FROM calls), (SELECT value FROM meta WHERE name = 'last_seq'))
"""
KNOWN = "SELECT id FROM calls WHERE id = ANY(%s::text[])"
NAMED = """
SELECT payload_blob FROM calls WHERE payload_blob <> '' AND payload_blob = ANY(%s::text[])
UNION SELECT payload_blob FROM results WHERE payload_blob <> '' AND payload_blob = ANY(%s::text[])
"""

_RECORD = """
SELECT c.seq, id, function, client, priority, created, deadline, {payloads}, c.payload_blob, parent, tags,
    method, trace, request, digest, failures, losses, state, finished, attempts, r.payload_blob, error,
    r.timeline, status, expired
FROM calls c LEFT JOIN origins o ON o.seq = c.seq LEFT JOIN results r ON r.seq = c.seq
LEFT JOIN progress p ON p.seq = c.seq
"""
CALL = _RECORD.format(payloads="c.payload, r.payload") + "WHERE id = %s"
_WITHOUT_PAYLOADS = _RECORD.format(payloads="''::bytea, ''::bytea")

EXPIRABLE = """
SELECT r.seq, r.payload_blob, c.payload_blob FROM results r JOIN calls c ON c.seq = r.seq
WHERE expired = %s AND finished < %s ORDER BY finished LIMIT %s
"""
EXPIRE = (
    "UPDATE results SET expired = 1, error = '', timeline = '', payload = '' WHERE seq = ANY(%s::bigint[])",
    "UPDATE calls SET payload = '' WHERE seq = ANY(%s::bigint[])",
)
KEEP_LAST_SEQ = f"UPDATE meta SET value = ({LAST_SEQ}) WHERE name = 'last_seq'"
FORGET = (
    "DELETE FROM results WHERE seq = ANY(%s::bigint[])",
    "DELETE FROM progress WHERE seq = ANY(%s::bigint[])",
    "DELETE FROM origins WHERE seq = ANY(%s::bigint[])",
    "DELETE FROM calls WHERE seq = ANY(%s::bigint[])",
)

KEEP_FUNCTION = "INSERT INTO functions (key, spec) VALUES (%s, %s) ON CONFLICT (key) DO NOTHING"
DEPLOYMENTS = """
SELECT app, version, created, functions, c.version IS NOT NULL, tags
FROM deployments d LEFT JOIN current_deployments c USING (app, version)
WHERE %s::text IN ('', app) ORDER BY created DESC, version DESC, app
"""
MAKE_CURRENT = """
INSERT INTO current_deployments (app, version) VALUES (%s, %s)
ON CONFLICT (app) DO UPDATE SET version = excluded.version
"""
ROLLOUTS = """
SELECT app, version, kind, parts, state, changed, why FROM rollouts
WHERE %s::text IN ('', app) ORDER BY app, version DESC
"""
PUT_ROLLOUT = """
INSERT INTO rollouts (app, version, kind, parts, state, changed, why) VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (app, version) DO UPDATE SET kind = excluded.kind, parts = excluded.parts, state = excluded.state,
    changed = excluded.changed, why = excluded.why
"""
DROP_ROLLOUTS = """
DELETE FROM rollouts r WHERE NOT EXISTS (
    SELECT 1 FROM deployments d WHERE d.app = r.app AND d.version = r.version
)
"""
DROP_VERSIONS = """
DELETE FROM deployments WHERE (app, version) IN (
    SELECT app, version FROM (
        SELECT app, version, row_number() OVER (PARTITION BY app ORDER BY version DESC) AS place
        FROM deployments d WHERE NOT EXISTS (
            SELECT 1 FROM current_deployments c WHERE c.app = d.app AND c.version = d.version
        )
    ) old WHERE place > %s
) AND (app, version) NOT IN (
    SELECT spec::json ->> 'app', (spec::json ->> 'version')::integer FROM functions WHERE key = ANY(%s::text[])
)
"""
UNUSED = """
SELECT key FROM functions f WHERE key <> ALL(%s::text[])
AND NOT EXISTS (SELECT 1 FROM calls WHERE function = f.key)
AND NOT EXISTS (
    SELECT 1 FROM deployments
    WHERE app = f.spec::json ->> 'app' AND version = (f.spec::json ->> 'version')::integer
)
"""
USED_AGAIN = "UPDATE functions SET unused = NULL WHERE unused IS NOT NULL AND key <> ALL(%s::text[])"
MARK_UNUSED = "UPDATE functions SET unused = %s WHERE unused IS NULL AND key = ANY(%s::text[])"
DROP_UNUSED = "DELETE FROM functions WHERE unused <= %s AND key = ANY(%s::text[]) RETURNING key"


def newest(function: str, state: CallState | None) -> str:
    """Return the statement for the newest calls of a function, if any, in a state, if any."""
    conditions = ["function = %s"] if function else []
    if state is not None:
        code = CODES.get(state, 0)
        # The second condition is what the partial index says: without it, it is not used.
        conditions.append(f"state = {code}" + (" AND state > 1" if code > 1 else ""))
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return f"{_WITHOUT_PAYLOADS} {where}ORDER BY c.seq DESC LIMIT %s"


def accept(connection: Connection, rows: Sequence[AcceptedRow]) -> None:
    _execute(
        connection,
        ACCEPT,
        [
            (
                r.seq,
                r.id,
                r.function,
                r.client,
                r.priority,
                float(r.created),
                None if r.deadline is None else float(r.deadline),
                r.parent,
                json.dumps(r.tags) if r.tags else "",
                r.payload_blob,
                r.payload,
            )
            for r in rows
        ],
    )
    _execute(connection, ORIGIN, [(r.seq, r.id, r.method, r.trace, r.request, r.digest) for r in rows if has_origin(r)])


def progress(connection: Connection, rows: Sequence[ProgressRow]) -> None:
    last = {r.seq: (r.seq, r.failures, r.losses, float(r.not_before), r.timeline) for r in rows}
    _execute(connection, PROGRESS, list(last.values()))


def settle(connection: Connection, rows: Sequence[SettledRow]) -> None:
    first = {(r.seq, r.id): r for r in reversed(rows)}
    _execute(
        connection,
        SETTLE,
        [
            (
                r.seq,
                r.id,
                CODES[r.state],
                float(r.finished),
                r.attempts,
                error_text(r.error),
                r.timeline,
                r.status,
                r.payload_blob,
                r.payload,
            )
            for r in first.values()
        ],
    )


def _execute(connection: Connection, statement: bytes, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        connection.execute(statement, [list(column) for column in zip(*rows, strict=True)])
