-- Where the end of a call is told. Few calls have one. `at` is when it is tried next, or was over (state delivered, failed).
CREATE TABLE callbacks (
    call_id text COLLATE "C" PRIMARY KEY,
    url text COLLATE "C" NOT NULL,
    holder text COLLATE "C" NOT NULL,
    created double precision NOT NULL,
    state text COLLATE "C" NOT NULL,
    attempts integer NOT NULL,
    at double precision NOT NULL,
    said text COLLATE "C" NOT NULL
);

CREATE INDEX callbacks_state ON callbacks (state, at);
