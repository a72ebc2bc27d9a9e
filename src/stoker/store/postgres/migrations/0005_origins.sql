-- Which method of a class a call is of, and the trace that it belongs to (a W3C traceparent). Only calls that have one of
-- them have a row.
CREATE TABLE origins (
    seq bigint PRIMARY KEY,
    method text COLLATE "C" NOT NULL,
    trace text COLLATE "C" NOT NULL
);
