-- Of calls that came over HTTP: what was asked (`POST /shop/move`), the digest of a request with an Idempotency-Key, and
-- the status of the answer.
ALTER TABLE origins ADD COLUMN request TEXT NOT NULL DEFAULT '';
ALTER TABLE origins ADD COLUMN digest TEXT NOT NULL DEFAULT '';
ALTER TABLE results ADD COLUMN status INTEGER NOT NULL DEFAULT 0;
