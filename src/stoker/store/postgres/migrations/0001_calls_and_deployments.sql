-- Numbers that belong to the store as a whole. `last_seq`: the greatest seq that was forgotten, so that none is given
-- twice. `identity`: a number of this store's own, by which it is known to what lies beside it.
CREATE TABLE meta (
    name text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL
);

INSERT INTO meta (name, value) VALUES
    ('last_seq', 0),
    ('identity', ('x' || left(md5(gen_random_uuid()::text), 15))::bit(60)::bigint);

-- One row: the current term, and how many transactions it has written. Each transaction begins by counting itself here,
-- which locks the row: so a newer term waits for it, and a server whose connection broke within a commit can ask
-- whether it was made.
CREATE TABLE term (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL,
    written bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO term (epoch, written) VALUES (0, 0);

-- One row for each detached call. `state` is 0 while it is pending, 1 when it succeeded.
CREATE TABLE calls (
    seq bigint PRIMARY KEY,
    state smallint NOT NULL DEFAULT 0,
    priority integer NOT NULL,
    created double precision NOT NULL CHECK (created <> 'NaN'),
    deadline double precision,
    id text COLLATE "C" NOT NULL,
    function text COLLATE "C" NOT NULL,
    client text COLLATE "C" NOT NULL,
    parent text COLLATE "C" NOT NULL,
    tags text COLLATE "C" NOT NULL,
    payload_blob text COLLATE "C" NOT NULL,
    payload bytea NOT NULL
);

CREATE UNIQUE INDEX calls_id ON calls (id);
CREATE INDEX calls_function ON calls (function, seq);
CREATE INDEX calls_pending ON calls (seq) WHERE state = 0;
CREATE INDEX calls_unsuccessful ON calls (seq) WHERE state > 1;

-- How a call ended.
CREATE TABLE results (
    seq bigint PRIMARY KEY,
    expired smallint NOT NULL DEFAULT 0,
    attempts integer NOT NULL,
    finished double precision NOT NULL CHECK (finished <> 'NaN'),
    error text COLLATE "C" NOT NULL,
    timeline text COLLATE "C" NOT NULL,
    payload_blob text COLLATE "C" NOT NULL,
    payload bytea NOT NULL
);

CREATE INDEX results_finished ON results (expired, finished);

-- Attempts used. Only calls whose attempts failed or were lost have a row.
CREATE TABLE progress (
    seq bigint PRIMARY KEY,
    failures integer NOT NULL,
    losses integer NOT NULL,
    not_before double precision NOT NULL
);

CREATE TABLE functions (
    key text COLLATE "C" PRIMARY KEY,
    spec text NOT NULL
);

CREATE TABLE deployments (
    app text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    created double precision NOT NULL,
    functions text NOT NULL,
    tags text NOT NULL,
    PRIMARY KEY (app, version)
);

CREATE TABLE current_deployments (
    app text COLLATE "C" PRIMARY KEY,
    version integer NOT NULL
);
