-- Since when (Unix seconds) nothing needs a function any more: no deployment, no call, nothing of the server's own.
ALTER TABLE functions ADD COLUMN unused double precision;
