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
    return lines + _profile(max(3, int(9 * scale)))


def _profile(rounds: int) -> list[Line]:
    """Return what of a call's time is copying, computing and reading: no call can be quicker than their sum."""
    with scratch() as variables:
        (took,) = in_turns([Place("stoker", "array_stages:stages")], variables, rounds=rounds, megabytes=MEGABYTES)
    return [
        Line("of it: copied into shared memory, twice", "s", 2 * took["written"]),
        Line("of it: mapped, and x + 1 made", "s", took["computed"]),
        Line("of it: mapped, and every page read", "s", took["read"]),
    ]
