"""Detached calls, each in PostgreSQL before it is acknowledged, beside the same on SQLite.

The database runs on this machine, with `fsync` and its other settings as they come, and is reached over TCP.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psycopg
from tests.postgres import fresh_schema, running

from bench.durable_calls import figures, rows_of
from bench.environments import scratch
from bench.report import Line

TITLE = "Durable calls on PostgreSQL, with 1 000 000 rows there"
PEER = "on SQLite"


def measure(scale: float) -> list[Line]:
    with scratch() as variables:
        theirs = figures(variables, scale, partial(rows_of, Path(variables["STOKER_HOME"]) / "server" / "store.db"))
    with running(fsync="on", shared_buffers="128MB", autovacuum_naptime="1min") as postgres, scratch() as place:
        schema = fresh_schema()
        variables = {**place, "STOKER_STORE": postgres.url(schema)}
        with postgres.connect() as connection:
            found = figures(variables, scale, partial(_results, connection, schema))
    lines = [
        ("`spawn_map`, accepted", "/s", "accepted"),
        ("`spawn_map`, accepted while the rows were filled", "/s", "filling"),
        ("settled", "/s", "settled"),
        ("one `spawn`, p50", "ms", "p50"),
        ("one `spawn`, p99", "ms", "p99"),
    ]
    floors = [
        Line("`spawn_map`, accepted", "/s", found["accepted"], better="higher", bound=10_000.0),
        Line("settled", "/s", found["settled"], better="higher", bound=10_000.0),
    ]
    better = {"/s": "higher", "ms": "lower"}
    return [
        *floors,
        *(
            Line(what, unit, found[name], better=better[unit], peer=PEER, theirs=theirs[name])
            for what, unit, name in lines
        ),
    ]


def _results(connection: psycopg.Connection, schema: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {schema}.results".encode()).fetchone()
    return int(row[0]) if row else 0
