"""A call that does nothing, one after another, warm, on the Ray engine."""

from __future__ import annotations

from bench.comparison import Place, in_turns
from bench.ray_nodes import two_nodes
from bench.report import Line

TITLE = "On two Ray nodes: `remote` of a no-op, warm"
PEER = "Ray actor"


def measure(scale: float) -> list[Line]:
    places = [Place("stoker", "on_ray_engine:round_trip"), Place("stoker", "on_ray_nodes:round_trip")]
    with two_nodes(cpus=(1, 1)) as variables:
        ours, theirs = in_turns(places, variables, rounds=5, calls=max(200, int(2000 * scale)))
    return [
        Line("round trip, p50", "ms", ours["p50"], peer=PEER, theirs=theirs["p50"], factor=1.0),
        Line("round trip, p99", "ms", ours["p99"], peer=PEER, theirs=theirs["p99"]),
    ]
