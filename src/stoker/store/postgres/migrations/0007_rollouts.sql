-- What a version of an app is, or was, beside the current one: a canary or a shadow, with its share of 10 000 calls.
CREATE TABLE rollouts (
    app text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    kind text NOT NULL,
    parts integer NOT NULL,
    state text NOT NULL,
    changed double precision NOT NULL,
    why text NOT NULL,
    PRIMARY KEY (app, version)
);
