"""Detached calls, each on disk before it is acknowledged, with a million rows there."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
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
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        peer = bare(Path(directory))["bare SQLite rows/s"]
    with scratch() as variables:
        database = Path(variables["STOKER_HOME"]) / "server" / "store.db"
        found = figures(variables, scale, partial(rows_of, database))
    accepted, settled = found["accepted"], found["settled"]
    return [
        Line("`spawn_map`, accepted", "/s", accepted, better="higher", bound=10_000.0),
        Line("`spawn_map`, accepted", "/s", accepted, better="higher", peer=PEER, theirs=peer),
        Line("`spawn_map`, accepted while the rows were filled", "/s", found["filling"], better="higher"),
        Line("settled", "/s", settled, better="higher", bound=10_000.0),
        Line("settled", "/s", settled, better="higher", peer=PEER, theirs=peer),
        Line("one `spawn`, p50", "ms", found["p50"], bound=2.0),
        Line("one `spawn`, p99", "ms", found["p99"]),
    ]


def figures(variables: Mapping[str, str], scale: float, results: Callable[[], int]) -> dict[str, float]:
    """Measure a server of these variables; ``results`` counts what is settled in its store."""
    rows, measured = int(ROWS * scale), int(MEASURED * min(1.0, 5 * scale))
    with server(variables), running(CLIENT, variables) as client:
        gate = f"{variables['BENCH_SCRATCH']}/gate"
        client.turn(do="close", gate=gate)
        filling = client.turn(do="queue", gate=gate, calls=rows)["rate"]
        accepted = client.turn(do="queue", gate=gate, calls=measured)["rate"]
        single = client.turn(do="spawn", gate=gate, calls=SPAWNED)
        Path(gate).touch()
        settled = _settled_rate(results, first=measured, last=2 * measured)
    return {"filling": filling, "accepted": accepted, "settled": settled, "p50": single["p50"], "p99": single["p99"]}


def rows_of(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        return int(store.execute("SELECT count(*) FROM results").fetchone()[0])


def _settled_rate(results: Callable[[], int], *, first: int, last: int) -> float:
    """Return the results a second that were committed, between a first and a last number of them."""
    seen: list[tuple[float, int]] = []
    give_up = time.monotonic() + LIMIT_SECONDS
    while not seen or seen[-1][1] < last:
        if time.monotonic() > give_up:
            raise RuntimeError(f"{last} calls were not settled within {LIMIT_SECONDS:g} s: {seen[-1:]}")
        count = results()
        if count >= first:
            seen.append((time.monotonic(), count))
        time.sleep(POLL_SECONDS)
    (began, before), (ended, after) = seen[0], seen[-1]
    return (after - before) / (ended - began)
