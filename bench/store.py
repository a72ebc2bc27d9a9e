"""Measure the SQLite store against bare SQLite on the same disk: ``python bench/store.py [--rows N] [--json PATH]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stoker.store.base import AcceptedRow, SettledRow
from stoker.store.sqlite import SqliteStore
from stoker.types import CallState

BATCH = 1_000
MEASURED = 50_000
PAYLOAD = os.urandom(100)
STARTED = 1_800_000_000.0

Figures = dict[str, float]


def accepted(seq: int) -> AcceptedRow:
    call_id = f"c-0k3v9{seq // 4096:08x}.{seq % 4096:06d}"
    return AcceptedRow(seq, call_id, "f" * 24, "client-1", 0, STARTED + seq, payload=PAYLOAD, parent="")


def settled(seq: int) -> SettledRow:
    return SettledRow(seq, accepted(seq).id, CallState.SUCCEEDED, STARTED + seq, 1, PAYLOAD, timeline="[[0,1,2,3]]")


def rate(store: SqliteStore, epoch: int, rows: Sequence[AcceptedRow | SettledRow]) -> tuple[float, list[float]]:
    """Write the rows in batches; return rows a second and the seconds of each batch."""
    took = []
    for start in range(0, len(rows), BATCH):
        began = time.perf_counter()
        store.write(epoch, rows[start : start + BATCH])
        took.append(time.perf_counter() - began)
    return len(rows) / sum(took), took


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def rates(store: SqliteStore, epoch: int, first: int, label: str) -> Figures:
    """Accept `MEASURED` calls and settle them."""
    seqs = range(first, first + MEASURED)
    accept_rate, accept_times = rate(store, epoch, [accepted(seq) for seq in seqs])
    settle_rate, settle_times = rate(store, epoch, [settled(seq) for seq in seqs])
    return {
        f"accepted/s at {label}": accept_rate,
        f"settled/s at {label}": settle_rate,
        f"slowest accepted batch at {label}, ms": 1e3 * max(accept_times),
        f"slowest settled batch at {label}, ms": 1e3 * max(settle_times),
    }


def single_writes(store: SqliteStore, epoch: int, first: int) -> Figures:
    times = []
    for seq in range(first, first + 500):
        row = accepted(seq)
        began = time.perf_counter()
        store.write(epoch, [row])
        times.append(time.perf_counter() - began)
    return {"single write p50, ms": 1e3 * percentile(times, 0.5), "single write p99, ms": 1e3 * percentile(times, 0.99)}


def load_pending(store: SqliteStore) -> Figures:
    began = time.perf_counter()
    page = store.pending(after_seq=0, limit=BATCH)
    first_page = time.perf_counter() - began
    count = 0
    while page:
        count += len(page)
        page = store.pending(after_seq=page[-1].call.seq, limit=10_000)
    took = time.perf_counter() - began
    counting = timed(store.pending_count)
    return {
        "pending rows": count,
        "first page of 1000, ms": 1e3 * first_page,
        "load all pending, s": took,
        "pending_count, ms": counting,
        "newest 100 calls, ms": timed(lambda: store.calls(limit=100)),
        "newest 100 failed calls, ms": timed(lambda: store.calls(state=CallState.FAILED)),
    }


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - began)


def bare(directory: Path) -> Figures:
    """Insert the same bytes into one plain table with one index: what the disk and the driver allow."""
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE rows (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, payload BLOB)")
    rows = [(seq, accepted(seq).id, PAYLOAD) for seq in range(1, MEASURED + 1)]
    began = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows[start : start + BATCH])
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return {"bare SQLite rows/s": len(rows) / took}


def measure(directory: Path, rows: int) -> Figures:
    figures = bare(directory)
    path = directory / "store.db"
    store = SqliteStore(path)
    epoch = store.begin_term()
    figures |= rates(store, epoch, 1, "0 rows")
    first = MEASURED + 1
    fill_rate, fill_times = rate(store, epoch, [accepted(seq) for seq in range(first, first + rows)])
    figures |= {
        "accepted/s while filling": fill_rate,
        "batch p99 while filling, ms": 1e3 * percentile(fill_times, 0.99),
    }
    figures |= rates(store, epoch, first + rows, f"{rows} rows")
    figures |= single_writes(store, epoch, first + rows + MEASURED)
    figures |= load_pending(store)
    oldest = [settled(seq) for seq in range(first, first + rows)]
    figures["settled/s of the oldest"] = rate(store, epoch, oldest[:MEASURED])[0]
    figures["WAL, MiB"] = (directory / "store.db-wal").stat().st_size / (1 << 20)
    figures["file, MiB"] = path.stat().st_size / (1 << 20)
    store.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="pending calls that are there (default: a million)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--directory", type=Path, help="a directory on the disk to measure (default: a temporary one)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
        figures = measure(Path(directory), chosen.rows)
    peer = figures["bare SQLite rows/s"]
    for name, value in figures.items():
        ratio = f"   {value / peer:.2f} of bare SQLite" if "/s" in name else ""
        print(f"{name:42} {value:12,.2f}{ratio}")
    if chosen.json:
        machine = {"machine": platform.platform(), "cpus": os.cpu_count(), "sqlite": sqlite3.sqlite_version}
        chosen.json.write_text(json.dumps({**machine, **figures}, indent=1))


if __name__ == "__main__":
    main()
