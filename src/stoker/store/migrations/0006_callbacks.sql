-- Where the end of a call is told. Few calls have one. `at` is when it is tried next, or was over (state delivered, failed).
CREATE TABLE callbacks (
    call_id TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    holder TEXT NOT NULL,
    created REAL NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    at REAL NOT NULL,
    said TEXT NOT NULL
) WITHOUT ROWID, STRICT;

CREATE INDEX callbacks_state ON callbacks (state, at);
