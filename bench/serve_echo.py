"""A JSON echo-times-two over HTTP, on keep-alive connections: Stoker, model servers, and a bare web server."""

from __future__ import annotations

from bench.environments import scratch
from bench.http_load import generator, in_turns
from bench.http_servers import NAMES, all_serving
from bench.report import Line

TITLE = f"HTTP: a JSON echo-times-two, load by {generator()}"
FLOORS = {"ray_serve": 10.0, "bentoml": 4.0, "litserve": None, "uvicorn": 1 / 3}


def measure(scale: float) -> list[Line]:
    seconds = max(1.0, 4.0 * scale)
    rounds = 3 if scale >= 0.5 else 1
    with scratch() as variables, all_serving(["stoker", *FLOORS], "echo", {"x": 21}, variables) as servers:
        many = in_turns(servers, connections=16, seconds=seconds, rounds=rounds)
        one = in_turns(servers, connections=1, seconds=max(1.0, seconds / 2), rounds=rounds)
    lines = [Line("one connection, p50", "ms", one[0]["p50"], bound=1.0)]
    for i, (side, floor) in enumerate(FLOORS.items(), start=1):
        given = {"peer": NAMES[side], "theirs": many[i]["rate"], "factor": floor}
        lines.append(Line("16 connections", "/s", many[0]["rate"], better="higher", **given))
    for i, side in enumerate(FLOORS, start=1):
        lines.append(Line("one connection, p50", "ms", one[0]["p50"], peer=NAMES[side], theirs=one[i]["p50"]))
    lines.append(Line("16 connections, p99", "ms", many[0]["p99"]))
    return lines
