"""A NumPy array of 100 MB in, ``x + 1`` out, every page of the result read."""

from __future__ import annotations

from bench.comparison import Place, in_turns
from bench.environments import scratch
from bench.report import Line

TITLE = "A NumPy array of 100 MB in, `x + 1` out"
MEGABYTES = 100


def measure(scale: float) -> list[Line]:
    stoker = Place("stoker", "on_stoker:large_arrays")
    peers = [
        ("Ray", Place("ray", "on_ray:large_arrays"), 2.0),
        ("ProcessPoolExecutor", Place("stoker", "on_processes:large_arrays"), None),
    ]
    lines = []
    for name, place, factor in peers:
        with scratch() as variables:
            rounds = max(3, int(9 * scale))
            ours, theirs = in_turns([stoker, place], variables, rounds=rounds, megabytes=MEGABYTES)
        lines.append(
            Line("100 MB in and out", "s", ours["seconds"], peer=name, theirs=theirs["seconds"], factor=factor)
        )
    return lines
