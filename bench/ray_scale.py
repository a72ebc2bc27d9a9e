"""From no worker to sixteen on two Ray nodes, with a built environment and a zygote on each."""

from __future__ import annotations

from bench.comparison import Place, in_turns
from bench.ray_nodes import two_nodes
from bench.report import Line

TITLE = "On two Ray nodes: from 0 to 16 workers, to the first result of each"
WORKERS = 16


def measure(scale: float) -> list[Line]:
    places = [Place("stoker", "on_ray_engine:scale"), Place("stoker", "on_ray_nodes:scale")]
    with two_nodes(cpus=(WORKERS / 2, WORKERS / 2)) as variables:
        ours, theirs = in_turns(places, variables, rounds=max(2, int(5 * scale)), workers=WORKERS)
    return [
        Line("16 workers that import NumPy", "s", ours["s"], peer="16 new Ray actors", theirs=theirs["s"], factor=3.0)
    ]
