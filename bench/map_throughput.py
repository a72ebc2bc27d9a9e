"""A map over many inputs of a function that does nothing."""

from __future__ import annotations

from bench.comparison import Place, in_turns
from bench.environments import scratch
from bench.report import Line

TITLE = "Calls a second: `map` of 100 000 no-ops"
RAY_SHARE = 0.1  # Ray's rate does not depend on how many there are, and it would take minutes


def measure(scale: float) -> list[Line]:
    stoker = Place("stoker", "on_stoker:map_throughput")
    calls = int(100_000 * scale)
    peers = [
        ("Pool.imap(chunksize=1)", Place("stoker", "on_processes:map_throughput"), 1.0, calls),
        ("Ray tasks", Place("ray", "on_ray:map_throughput"), 20.0, int(calls * RAY_SHARE)),
    ]
    lines = []
    for name, place, factor, count in peers:
        with scratch() as variables:
            ours, theirs = in_turns([stoker, place], variables, rounds=5, calls=count)
        what = f"map of {count:,} no-ops".replace(",", " ")
        lines.append(Line(what, "/s", ours["rate"], better="higher", peer=name, theirs=theirs["rate"], factor=factor))
    return lines
