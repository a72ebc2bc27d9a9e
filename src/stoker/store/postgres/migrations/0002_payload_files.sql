-- Which rows name a payload file: few do, so the indexes are small, and free for the others.
CREATE INDEX calls_blob ON calls (payload_blob) WHERE payload_blob <> '';
CREATE INDEX results_blob ON results (payload_blob) WHERE payload_blob <> '';
