"""A gang of four: from the call to all ranks in user code, nothing but its environment and zygote being there."""

from __future__ import annotations

from statistics import median

from bench.comparison import Place, running
from bench.environments import scratch
from bench.report import Line

TITLE = "A gang of 4, from the call to all ranks in user code"


def measure(scale: float) -> list[Line]:
    rounds = max(3, int(15 * scale))
    with scratch() as variables, running(Place("stoker", "gangs:starting"), variables) as side:
        started = [side.turn()["s"] for _ in range(rounds)]
    with scratch() as variables, running(Place("stoker", "gangs:warm"), variables) as side:
        warm = [side.turn()["s"] for _ in range(rounds)]
    return [
        Line("its four workers started", "s", median(started), bound=2.0),
        Line("its four workers there from the call before", "s", median(warm)),
    ]
