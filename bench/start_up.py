"""A script's start to its first result: interpreter, imports, the server of its own, a worker, one call."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from bench.environments import ROOT, python_of, scratch
from bench.report import Line

TITLE = "A script's start to its first result, embedded"
PROGRAMS = ROOT / "bench" / "programs"
LIMIT_SECONDS = 120


def measure(scale: float) -> list[Line]:
    rounds = max(3, int(9 * scale))
    ours: list[float] = []
    processes: list[float] = []
    ray: list[float] = []
    with scratch() as variables:
        for i in range(rounds):
            for place, name, taken in (("stoker", "stoker", ours), ("stoker", "processes", processes)):
                taken.append(to_result(place, name, variables))
            if i < 3:
                ray.append(to_result("ray", "ray", variables))
    mine = median(ours[1:])  # the first run fills the caches of bytecode
    return [
        Line("start to first result", "s", mine, bound=1.0),
        Line("start to first result", "s", mine, peer="Ray", theirs=median(ray[1:]), factor=10.0),
        Line("start to first result", "s", mine, peer="ProcessPoolExecutor", theirs=median(processes[1:])),
    ]


def to_result(place: str, name: str, variables: Mapping[str, str]) -> float:
    """Run a program to its end and return the seconds until it printed its result."""
    given = {**variables, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}  # as a user's own
    command = [python_of(place), str(PROGRAMS / f"{name}_hello.py")]
    log = Path(variables["BENCH_SCRATCH"]) / f"{name}.log"
    with log.open("ab") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=given)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("result 42"):
                took = time.perf_counter() - began
                process.communicate(timeout=LIMIT_SECONDS)
                return took
    raise RuntimeError(f"{name}_hello.py gave no result:\n{log.read_text(errors='replace')[-4000:]}")
