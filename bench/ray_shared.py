"""A result of 200 MB of one Ray node, used by ten calls on the other."""

from __future__ import annotations

from bench.comparison import Place, in_turns
from bench.ray_nodes import two_nodes
from bench.report import Line

TITLE = "On two Ray nodes: a result of 200 MB of one, used by ten calls on the other"
MEGABYTES = 200
TIMES_MAX = 1.1  # what else goes over the network, and TLS


def measure(scale: float) -> list[Line]:
    places = [Place("stoker", "on_ray_engine:shared"), Place("stoker", "on_ray_nodes:shared")]
    megabytes = max(50, int(MEGABYTES * scale))
    with two_nodes(cpus=(1, 4), object_store=8 * megabytes << 20) as variables:
        ours, theirs = in_turns(places, variables, rounds=3, megabytes=megabytes, calls=10)
    return [
        Line("times that it crossed", "", ours["times"], bound=TIMES_MAX),
        Line("times that it crossed", "", ours["times"], peer="Ray tasks", theirs=theirs["times"]),
        Line("ten calls that read all of it", "s", ours["seconds"], peer="Ray tasks", theirs=theirs["seconds"]),
    ]
