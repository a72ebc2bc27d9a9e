"""Detached calls on a persistent server, all queued behind one that holds every core until its gate file is there."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stoker

app = stoker.App("gated")
CORES = len(os.sched_getaffinity(0))
MAX_PENDING = 2_000_000
CHUNK_CALLS = 50_000
POLL_SECONDS = 0.002
LIMIT_SECONDS = 60.0

_logs: dict[str, Any] = {}


@app.function(cpu=CORES, idle_timeout=0, lost_retries=1000)
def hold(gate: str) -> None:
    Path(gate + ".held").touch()
    while not os.path.exists(gate):  # noqa: PTH110 - asked often
        time.sleep(POLL_SECONDS)


@app.function(max_pending=MAX_PENDING, idle_timeout=0.2)
def mark(gate: str) -> None:
    """Write down when this ran, in a file for each gate and process."""
    log = _logs.get(gate)
    if log is None:
        log = _logs[gate] = os.open(f"{gate}.{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, array("d", [time.time()]).tobytes())


def client() -> Iterator[Callable[..., Any]]:
    """Yield a client that does one of several things a turn."""
    app.deploy()
    called = stoker.Function.from_name("gated", "mark")
    holding = stoker.Function.from_name("gated", "hold")

    def close(gate: str) -> dict[str, float]:
        held = Path(gate + ".held")
        holding.spawn(gate)
        give_up = time.monotonic() + LIMIT_SECONDS
        while not held.exists():
            if time.monotonic() > give_up:
                raise AssertionError("the call that holds the cores did not start")
            time.sleep(POLL_SECONDS)
        return {}

    def queue(gate: str, calls: int) -> dict[str, float]:
        began = time.perf_counter()
        for first in range(0, calls, CHUNK_CALLS):
            called.spawn_map([gate] * min(CHUNK_CALLS, calls - first))
        return {"rate": calls / (time.perf_counter() - began)}

    def spawn(gate: str, calls: int) -> dict[str, float]:
        took = []
        for _ in range(calls):
            began = time.perf_counter()
            called.spawn(gate)
            took.append(1e3 * (time.perf_counter() - began))
        return {"p50": sorted(took)[calls // 2], "p99": sorted(took)[calls * 99 // 100]}

    actions: dict[str, Callable[..., dict[str, float]]] = {"close": close, "queue": queue, "spawn": spawn}
    yield lambda do, **keywords: actions[do](**keywords)


def marks(gate: str) -> list[float]:
    """Return when calls of a gate ran, in order."""
    found = array("d")
    for log in Path(gate).parent.glob(f"{Path(gate).name}.*.log"):
        data = log.read_bytes()
        found.frombytes(data[: len(data) // 8 * 8])
    return sorted(found)
