"""One map over a million inputs: memory and rate, from its first tenth to its last."""

from __future__ import annotations

from bench.comparison import Place, running
from bench.environments import scratch
from bench.report import Line

TITLE = "One map over 1 000 000 inputs"
CALLS = 1_000_000
SETTLED = 5  # samples of fifty: until then workers start and pools of memory fill


def measure(scale: float) -> list[Line]:
    calls = int(CALLS * scale)
    with scratch() as variables:
        with running(Place("stoker", "on_stoker:million_map"), variables) as side:
            ours = side.turn(calls=calls)
        with running(Place("stoker", "on_processes:million_map"), variables) as side:
            theirs = side.turn(calls=calls)
    first, last = ours["tenths"][0], ours["tenths"][-1]
    return [
        Line("client's memory, growth", "MiB", growth(ours["client"]), bound=50.0),
        Line("server's memory, growth", "MiB", growth(ours["server"]), bound=50.0),
        Line("client's memory, highest", "MiB", max(ours["client"]), peer="Pool.imap", theirs=max(theirs["client"])),
        Line("last tenth", "/s", last, better="higher", peer="first tenth", theirs=first, factor=0.95),
        Line(
            "median tenth", "/s", middle(ours["tenths"]), better="higher", peer="Pool.imap",
            theirs=middle(theirs["tenths"]),
        ),
    ]  # fmt: skip


def growth(samples: list[float]) -> float:
    settled = samples[SETTLED:]
    return max(settled) - min(settled)


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
