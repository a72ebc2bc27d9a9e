-- Which method of a class a call is of, and the trace that it belongs to (a W3C traceparent). Only calls that have one of
-- them have a row.
CREATE TABLE origins (
    seq INTEGER PRIMARY KEY,
    method TEXT NOT NULL,
    trace TEXT NOT NULL
) STRICT;
