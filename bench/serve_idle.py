"""Thousands of keep-alive connections that have asked once and say nothing more: memory, and what others notice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from bench import persistent
from bench.environments import ROOT, scratch
from bench.http_load import closed_loop
from bench.http_servers import Served, serving
from bench.processes import pss
from bench.report import Line

CONNECTIONS = 5_000
TITLE = f"HTTP: {CONNECTIONS} idle keep-alive connections".replace("5000", "5 000")


def measure(scale: float) -> list[Line]:
    rounds = max(2, int(5 * scale))
    with scratch() as variables, serving("stoker", "echo", {"x": 21}, variables) as served:
        server = int(persistent.stoker(variables, "server", "status")["pid"])
        closed_loop(served, connections=16, seconds=1.0)
        without, among = [], []
        before = pss(server)
        growth = 0.0
        for _ in range(rounds):  # in turns, so that what else the machine does falls on both
            without.append(closed_loop(served, connections=1, seconds=2.0))
            with idling(served):
                growth = max(growth, pss(server) - before)
                among.append(closed_loop(served, connections=1, seconds=2.0))
    alone = {name: median(each[name] for each in without) for name in ("p50", "p99")}
    others = {name: median(each[name] for each in among) for name in ("p50", "p99")}
    return [
        Line("memory of the server above none", "MiB", growth, bound=200.0),
        *(
            Line(f"another connection, {name}", "ms", others[name], peer="without them", theirs=alone[name])
            for name in ("p50", "p99")
        ),
    ]


@contextmanager
def idling(served: Served) -> Iterator[None]:
    """Have the connections, each of which has asked once; they are a process's own."""
    given = {"do": "idle", "port": served.port, "path": served.path, "body": served.body, "connections": CONNECTIONS}
    client = subprocess.Popen(
        [sys.executable, "-m", "bench.http_client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        client.stdin.write(json.dumps(given) + "\n")
        client.stdin.flush()
        opened = json.loads(client.stdout.readline() or "{}").get("open", 0)
        if opened != CONNECTIONS:
            raise RuntimeError(f"{opened} of {CONNECTIONS} connections stayed open")
        yield
    finally:
        client.stdin.close()
        client.wait(30)
