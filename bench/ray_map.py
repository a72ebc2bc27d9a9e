"""A map of a function that does nothing over the workers of two Ray nodes."""

from __future__ import annotations

from bench.comparison import Place, in_turns
from bench.ray_nodes import two_nodes
from bench.report import Line

TITLE = "On two Ray nodes: `map` of no-ops over both"


def measure(scale: float) -> list[Line]:
    places = [Place("stoker", "on_ray_engine:map_throughput"), Place("stoker", "on_ray_nodes:map_throughput")]
    calls = max(1000, int(10_000 * scale))
    with two_nodes(cpus=(1, 1)) as variables:
        ours, theirs = in_turns(places, variables, rounds=5, calls=calls)
    what = f"map of {calls:,} no-ops".replace(",", " ")
    return [Line(what, "/s", ours["rate"], "higher", peer="Ray tasks", theirs=theirs["rate"], factor=10.0)]
