"""A hundred thousand requests while the app is deployed again and again: how many of them fail."""

from __future__ import annotations

import threading
from pathlib import Path

from bench import persistent
from bench.environments import scratch
from bench.http_load import load
from bench.http_servers import serving
from bench.report import Line

REQUESTS = 100_000
CONNECTIONS = 16
SECONDS = 5.0  # of each stretch of load
PAUSE_SECONDS = 2.0  # between two deployments
TITLE = "HTTP: requests while the app is redeployed"

PROGRAM = """
import stoker

app = stoker.App("bench")

@app.function(max_workers=1)
@stoker.endpoint(requires_token=False)
def echo(x: float) -> dict[str, float]:
    return {{"x": 2 * x, "version": {version}}}
"""


def measure(scale: float) -> list[Line]:
    wanted, asked, failed = max(1, int(REQUESTS * scale)), 0.0, 0.0
    with scratch() as variables, serving("stoker", "echo", {"x": 21}, variables) as served:
        program = Path(variables["BENCH_SCRATCH"]) / "redeployed.py"
        done, versions, problems = threading.Event(), [0], []

        def redeploy() -> None:
            try:
                while not done.wait(PAUSE_SECONDS):
                    versions[0] += 1
                    program.write_text(PROGRAM.format(version=versions[0]))
                    persistent.stoker(variables, "deploy", str(program))
            except RuntimeError as error:
                problems.append(error)

        thread = threading.Thread(target=redeploy)
        thread.start()
        try:
            while asked < wanted:
                figures = load(served, connections=CONNECTIONS, seconds=SECONDS)
                asked += figures["rate"] * SECONDS
                failed += figures["failed"]
        finally:
            done.set()
            thread.join()
        if problems:
            raise problems[0]
    return [
        Line(f"failed of {asked:,.0f}, {versions[0]} redeployments".replace(",", " "), "", failed, bound=0.0),
    ]
