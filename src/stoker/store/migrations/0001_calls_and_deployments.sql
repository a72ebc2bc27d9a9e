-- Numbers that belong to the store as a whole. `epoch`: the current term. `last_seq`: the greatest seq that was
-- forgotten, so that none is given twice.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

INSERT INTO meta (name, value) VALUES ('epoch', 0), ('last_seq', 0);

-- One row for each detached call. `state` is 0 while it is pending, 1 when it succeeded: SQLite keeps both in no bytes,
-- so that settling a call rewrites its row in place, and no page has to be split. The payload comes last: what reads
-- the other columns does not touch its pages.
CREATE TABLE calls (
    seq INTEGER PRIMARY KEY,
    state INTEGER NOT NULL DEFAULT 0,
    id TEXT NOT NULL,
    function TEXT NOT NULL,
    client TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created REAL NOT NULL,
    deadline REAL,
    parent TEXT NOT NULL,
    tags TEXT NOT NULL,
    payload_blob TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX calls_id ON calls (id);
CREATE INDEX calls_function ON calls (function);
CREATE INDEX calls_pending ON calls (seq) WHERE state = 0;
CREATE INDEX calls_unsuccessful ON calls (seq) WHERE state > 1;

-- How a call ended. A table of its own, because appending is cheaper than growing rows that lie among others.
CREATE TABLE results (
    seq INTEGER PRIMARY KEY,
    expired INTEGER NOT NULL DEFAULT 0,
    finished REAL NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    timeline TEXT NOT NULL,
    payload_blob TEXT NOT NULL,
    payload BLOB NOT NULL
) STRICT;

CREATE INDEX results_finished ON results (expired, finished);

-- Attempts used. Only calls whose attempts failed or were lost have a row.
CREATE TABLE progress (
    seq INTEGER PRIMARY KEY,
    failures INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    not_before REAL NOT NULL
) STRICT;

CREATE TABLE functions (
    key TEXT PRIMARY KEY,
    spec TEXT NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE deployments (
    app TEXT NOT NULL,
    version INTEGER NOT NULL,
    created REAL NOT NULL,
    functions TEXT NOT NULL,
    tags TEXT NOT NULL,
    PRIMARY KEY (app, version)
) WITHOUT ROWID, STRICT;

CREATE TABLE current_deployments (
    app TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
