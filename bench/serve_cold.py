"""A request while no worker is alive: a class with torch and a model in its snapshot, beside a new process."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from statistics import median

from bench.environments import ROOT, python_of, scratch
from bench.http_servers import Served, serving
from bench.persistent import wait_until
from bench.processes import lives
from bench.report import Line

TITLE = "HTTP: cold start from zero of a class with torch and a snapshot, request to answer"
SETTLE_SECONDS = 0.3  # for the server to have heard of the worker's end
PEER_ROUNDS = 3  # seconds each
FRESH = """
from bench.served.on_stoker_torch import FEATURES, network
import torch
with torch.inference_mode():
    print(int(network()(torch.full((1, FEATURES), 0.5)).argmax()))
"""


def measure(scale: float) -> list[Line]:
    rounds = max(7, int(25 * scale))
    with scratch() as variables, serving("stoker_torch", "Model/label", {"x": 0.5}, variables) as served:
        previous = int(json.loads(served.ask())["pid"])  # the first start imports; the others fork
        ours: list[float] = []
        fresh: list[float] = []
        for i in range(rounds):
            took, previous = cold(served, previous)
            ours.append(took)
            if i < PEER_ROUNDS:
                fresh.append(in_new_process(variables))
    mine = median(ours)
    return [
        Line("no worker alive to answer, p50", "ms", mine, bound=150.0),
        Line("no worker alive to answer, p50", "ms", mine, peer="a new process", theirs=median(fresh)),
        Line("no worker alive to answer, second slowest", "ms", sorted(ours)[-2]),
    ]


def cold(served: Served, previous: int) -> tuple[float, int]:
    """Return the milliseconds of a request that finds no worker, and the worker that was started for it."""
    wait_until("the worker's end", lambda: not lives(previous), seconds=30.0)
    time.sleep(SETTLE_SECONDS)
    began = time.perf_counter()
    answer = json.loads(served.ask())
    took = 1e3 * (time.perf_counter() - began)
    if answer["pid"] == previous:
        raise AssertionError("no cold start")
    return took, answer["pid"]


def in_new_process(variables: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([python_of("torch"), "-c", FRESH], check=True, capture_output=True, cwd=ROOT, env=dict(variables))
    return 1e3 * (time.perf_counter() - began)
