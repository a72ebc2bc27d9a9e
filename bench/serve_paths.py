"""A million paths, each asked for once, as scanners do: what the server keeps of them.

A third leads to apps that are not there, a third to functions that are not, and a third to places below an endpoint.
"""

from __future__ import annotations

from bench import persistent
from bench.environments import scratch
from bench.http_load import closed_loop, own_client
from bench.http_servers import serving
from bench.processes import pss
from bench.report import Line

PATHS = 1_000_000
TITLE = "HTTP: a million distinct paths, each asked for once"


def measure(scale: float) -> list[Line]:
    wanted = max(3000, int(PATHS * scale))
    with scratch() as variables, serving("stoker", "echo", {"x": 21}, variables) as served:
        server = int(persistent.stoker(variables, "server", "status")["pid"])
        given = {"do": "paths", "port": served.port, "path": served.path, "body": served.body, "connections": 16}
        own_client({**given, "paths": wanted // 50, "first": wanted})
        before = pss(server)
        asked = own_client({**given, "paths": wanted, "first": 0})
        gained = pss(server) - before
        after = closed_loop(served, connections=1, seconds=2.0)
    return [
        Line(f"memory gained by {wanted:,} paths".replace(",", " "), "MiB", gained, bound=20.0),
        Line("answered otherwise than by 404, and 200 below the endpoint", "", asked["wrong"], bound=0.0),
        Line("requests", "/s", asked["rate"], better="higher"),
        Line("an endpoint afterwards, one connection, p50", "ms", after["p50"]),
    ]
