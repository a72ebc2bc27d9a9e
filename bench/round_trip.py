"""A call of a function that does nothing, one after another, warm."""

from __future__ import annotations

from bench.comparison import Place, in_turns
from bench.environments import scratch
from bench.report import Line

TITLE = "One call at a time: `remote` of a no-op, warm"


def measure(scale: float) -> list[Line]:
    stoker = Place("stoker", "on_stoker:round_trip")
    calls = max(200, int(2000 * scale))
    lines = []
    peers = [
        ("ProcessPoolExecutor", Place("stoker", "on_processes:round_trip"), 1.0),
        ("Ray task", Place("ray", "on_ray:round_trip"), 8.0),
    ]
    for name, place, factor in peers:
        with scratch() as variables:
            ours, theirs = in_turns([stoker, place], variables, rounds=7, calls=calls)
        lines += [
            Line("round trip, p50", "ms", ours["p50"], peer=name, theirs=theirs["p50"], factor=factor),
            Line("round trip, p99", "ms", ours["p99"], peer=name, theirs=theirs["p99"]),
        ]
    return lines
