-- Of calls that came over HTTP: what was asked (`POST /shop/move`), the digest of a request with an Idempotency-Key, and
-- the status of the answer.
ALTER TABLE origins ADD COLUMN request text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE origins ADD COLUMN digest text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE results ADD COLUMN status smallint NOT NULL DEFAULT 0;
