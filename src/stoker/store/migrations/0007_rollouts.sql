-- What a version of an app is, or was, beside the current one: a canary or a shadow, with its share of 10 000 calls.
CREATE TABLE rollouts (
    app TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    parts INTEGER NOT NULL,
    state TEXT NOT NULL,
    changed REAL NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY (app, version)
) WITHOUT ROWID, STRICT;
