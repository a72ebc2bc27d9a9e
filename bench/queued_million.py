"""A million detached calls queued: the server's memory, how fast it dispatches, how soon after a restart."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from bench.comparison import Place, Side, running
from bench.environments import scratch
from bench.persistent import server, start, stoker, wait_until
from bench.processes import rss
from bench.report import Line
from bench.sides.gated import marks

TITLE = "1 000 000 detached calls queued"
CALLS = 1_000_000
SMALL = 1_000
SMALL_ROUNDS = 9
WINDOWS = 50
CLIENT = Place("stoker", "gated:client")


def measure(scale: float) -> list[Line]:
    calls = int(CALLS * scale)
    with scratch() as variables, server(variables) as pid:
        before = rss(pid)
        with running(CLIENT, variables) as client:
            few = median(_small_round(variables, client, i) for i in range(SMALL_ROUNDS))
            gate = _gate(variables, "million")
            client.turn(do="close", gate=gate)
            client.turn(do="queue", gate=gate, calls=calls)
        memory = rss(pid)
        stoker(variables, "server", "stop")
        Path(gate).touch()
        began = time.time()
        restarted = start(variables)
        wait_until("the first lease after the restart", lambda: bool(marks(gate)), seconds=120)
        many = _rate_of_windows(gate, min(WINDOWS * SMALL, calls))
        first = marks(gate)[0] - began
        after = rss(restarted)
    what = f"{calls:,} queued".replace(",", " ")
    return [
        Line(f"server's memory, {what}", "MiB", memory, bound=1536.0),
        Line(f"server's memory after a restart, {what}", "MiB", after, bound=1536.0),
        Line("server's memory before", "MiB", before),
        Line(f"dispatched, {what}", "/s", many, better="higher", peer=f"{SMALL} queued", theirs=few, factor=0.95),
        Line(f"restart to first call run, {what}", "s", first, bound=10.0),
    ]


def _small_round(variables: Mapping[str, str], client: Side, number: int) -> float:
    gate = _gate(variables, f"small-{number}")
    client.turn(do="close", gate=gate)
    client.turn(do="queue", gate=gate, calls=SMALL)
    Path(gate).touch()
    wait_until("a thousand calls", lambda: len(marks(gate)) >= SMALL, seconds=60)
    return _rates(marks(gate))[0]


def _rate_of_windows(gate: str, calls: int) -> float:
    wait_until(f"{calls} calls", lambda: len(marks(gate)) >= calls, seconds=120)
    return median(_rates(marks(gate)[:calls]))


def _rates(marks: list[float]) -> list[float]:
    """Return the calls a second of each window of a thousand."""
    windows = [marks[i : i + SMALL] for i in range(0, len(marks) - SMALL + 1, SMALL)]
    return [(SMALL - 1) / (window[-1] - window[0]) for window in windows]


def _gate(variables: Mapping[str, str], name: str) -> str:
    return f"{variables['BENCH_SCRATCH']}/{name}"
