"""Closed loops of HTTP requests: so many connections, each asks again when it has been answered.

The load comes from wrk (https://github.com/wg/wrk, a package of most distributions) where it is installed: it takes
little of the processor, of which the servers want all. Else from `bench.http_client`, in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from bench.comparison import Figures, medians
from bench.environments import ROOT
from bench.http_servers import Served

_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = [==[%s]==]
function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.status + e.connect + e.read + e.write + e.timeout
  io.write(string.format('\\n{"count": %%d, "us": %%d, "p50": %%d, "p99": %%d, "failed": %%d}\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), failed))
end
"""


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "a client of our own"


def closed_loop(served: Served, *, connections: int, seconds: float) -> Figures:
    """Return requests a second, and the 50th and 99th percentile of their milliseconds.

    Raises:
        RuntimeError: some were not answered with success.
    """
    figures = load(served, connections=connections, seconds=seconds)
    if figures["failed"] or not figures["rate"]:
        raise RuntimeError(f"{served.url}: {figures}")
    return {name: figures[name] for name in ("rate", "p50", "p99")}


def load(served: Served, *, connections: int, seconds: float) -> Figures:
    """As `closed_loop`, with how many were not answered with success."""
    if shutil.which("wrk"):
        return _with_wrk(served, connections, seconds)
    given = {"do": "closed", "port": served.port, "path": served.path, "body": served.body}
    return own_client({**given, "connections": connections, "seconds": seconds})


def in_turns(servers: list[Served], *, connections: int, seconds: float, rounds: int) -> list[Figures]:
    """Return the medians of each server, one loaded at a time; a first round does not count."""
    taken: list[list[Figures]] = [[] for _ in servers]
    for i in range(rounds + 1):
        order = list(range(len(servers)))
        for j in order if i % 2 else reversed(order):
            figures = closed_loop(servers[j], connections=connections, seconds=seconds if i else min(1.0, seconds))
            if i:
                taken[j].append(figures)
    return [medians(figures) for figures in taken]


def own_client(given: dict[str, Any]) -> dict[str, Any]:
    """Run `bench.http_client` in a process of its own."""
    command = [sys.executable, "-m", "bench.http_client"]
    run = subprocess.run(command, input=json.dumps(given) + "\n", capture_output=True, text=True, check=False, cwd=ROOT)
    if run.returncode:
        raise RuntimeError(run.stderr[-4000:])
    return dict(json.loads(run.stdout))


def _with_wrk(served: Served, connections: int, seconds: float) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % json.dumps(served.body))
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", script.name, served.url]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
    try:
        told = json.loads(run.stdout.strip().rpartition("\n")[2])
    except ValueError:
        raise RuntimeError(f"wrk, for {served.url}:\n{run.stdout}{run.stderr}") from None
    return {
        "rate": told["count"] / (told["us"] / 1e6),
        "p50": told["p50"] / 1e3,
        "p99": told["p99"] / 1e3,
        "failed": told["failed"],
    }
