"""Detached calls, each on disk before it is acknowledged, with a million rows there."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from bench.comparison import Place, running
from bench.environments import scratch
from bench.persistent import server
from bench.report import Line
from bench.store import bare

TITLE = "Durable calls, with 1 000 000 rows there"
ROWS = 1_000_000
MEASURED = 50_000
SPAWNED = 500
PEER = "bare SQLite, rows"
CLIENT = Place("stoker", "gated:client")
POLL_SECONDS = 0.1
LIMIT_SECONDS = 300.0


def measure(scale: float) -> list[Line]:
    rows, measured = int(ROWS * scale), int(MEASURED * min(1.0, 5 * scale))
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        peer = bare(Path(directory))["bare SQLite rows/s"]
    with scratch() as variables, server(variables), running(CLIENT, variables) as client:
        gate = f"{variables['BENCH_SCRATCH']}/gate"
        client.turn(do="close", gate=gate)
        filling = client.turn(do="queue", gate=gate, calls=rows)["rate"]
        accepted = client.turn(do="queue", gate=gate, calls=measured)["rate"]
        single = client.turn(do="spawn", gate=gate, calls=SPAWNED)
        Path(gate).touch()
        database = Path(variables["STOKER_HOME"]) / "server" / "store.db"
        settled = _settled_rate(database, first=measured, last=2 * measured)
    return [
        Line("`spawn_map`, accepted", "/s", accepted, better="higher", bound=10_000.0),
        Line("`spawn_map`, accepted", "/s", accepted, better="higher", peer=PEER, theirs=peer),
        Line("`spawn_map`, accepted while the rows were filled", "/s", filling, better="higher"),
        Line("settled", "/s", settled, better="higher", bound=10_000.0),
        Line("settled", "/s", settled, better="higher", peer=PEER, theirs=peer),
        Line("one `spawn`, p50", "ms", single["p50"], bound=2.0),
        Line("one `spawn`, p99", "ms", single["p99"]),
    ]


def _settled_rate(database: Path, *, first: int, last: int) -> float:
    """Return the results a second that were committed, between a first and a last number of them."""
    seen: list[tuple[float, int]] = []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        give_up = time.monotonic() + LIMIT_SECONDS
        while not seen or seen[-1][1] < last:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{last} calls were not settled within {LIMIT_SECONDS:g} s: {seen[-1:]}")
            count = store.execute("SELECT count(*) FROM results").fetchone()[0]
            if count >= first:
                seen.append((time.monotonic(), count))
            time.sleep(POLL_SECONDS)
    (began, before), (ended, after) = seen[0], seen[-1]
    return (after - before) / (ended - began)
