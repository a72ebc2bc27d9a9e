"""A JSON echo of FastAPI as an ``asgi_app``, beside the same site under uvicorn alone."""

from __future__ import annotations

from bench.environments import scratch
from bench.http_load import generator, in_turns
from bench.http_servers import NAMES, serving
from bench.report import Line

TITLE = f"HTTP: a JSON echo of FastAPI as an `asgi_app`, load by {generator()}"
BODY = {"x": 21}


def measure(scale: float) -> list[Line]:
    seconds = max(1.0, 4.0 * scale)
    rounds = 3 if scale >= 0.5 else 1
    with (
        scratch() as variables,
        serving("stoker_fastapi", "site/echo", BODY, variables) as ours,
        serving("fastapi", "echo", BODY, variables) as alone,
    ):
        many = in_turns([ours, alone], connections=16, seconds=seconds, rounds=rounds)
        one = in_turns([ours, alone], connections=1, seconds=max(1.0, seconds / 2), rounds=rounds)
    peer = NAMES["fastapi"]
    return [
        Line(
            *("16 connections", "/s", many[0]["rate"]),
            better="higher",
            peer=peer,
            theirs=many[1]["rate"],
            factor=0.5,
        ),
        Line("16 connections, p99", "ms", many[0]["p99"], peer=peer, theirs=many[1]["p99"]),
        Line("one connection, p50", "ms", one[0]["p50"], peer=peer, theirs=one[1]["p50"]),
    ]
