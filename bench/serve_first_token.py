"""The first event of a stream: how long it takes beyond what the function itself took until it yielded."""

from __future__ import annotations

from statistics import median

from bench.environments import scratch
from bench.http_load import own_client
from bench.http_servers import serving
from bench.report import Line

TITLE = "HTTP: the first token of a stream, above the function's own time"
BODY = {"count": 5, "think": 0.005}


def measure(scale: float) -> list[Line]:
    rounds = max(3, int(9 * scale))
    with scratch() as variables, serving("stoker", "tokens", BODY, variables) as served:
        given = {"do": "stream", "port": served.port, "path": served.path, "body": BODY, "requests": 50}
        taken = [own_client(given) for _ in range(rounds + 1)][1:]
    return [
        Line("above the function's own, p50", "ms", median(each["p50"] for each in taken), bound=3.0),
        Line("above the function's own, p99", "ms", median(each["p99"] for each in taken)),
    ]
