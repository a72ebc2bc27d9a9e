"""The work on Stoker's Ray engine: a server that stays is there, on the cluster that the other side uses too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stoker
from bench.sides.shared_array import array, crossed, total
from bench.sides.timing import percentiles, rate
from bench.sides.with_numpy import pid_here
from stoker.client import session as sessions

app = stoker.App("bench-ray")
sharing = stoker.App("bench-ray-shared")  # of its own: it needs a larger node than others have
IDLE_SECONDS = 0.5  # after a turn the cores are the other side's
WARM_CALLS = 20_000
WARM_SECONDS = 30.0
ARRIVE_POLL_SECONDS = 0.002
numpy_image = stoker.Image.python().pip_install("numpy==2.4.6")


@app.function(idle_timeout=IDLE_SECONDS)
def nothing(x: int = 0) -> int:
    return x


@app.function(image=numpy_image, idle_timeout=0.1, max_workers=16)
def arrives(directory: str, number: int, count: int) -> int:
    """Return when ``count`` workers have come this far."""
    here = pid_here()
    (Path(directory) / f"{number}").touch()
    while len(os.listdir(directory)) < count:  # noqa: PTH208 - asked often
        time.sleep(ARRIVE_POLL_SECONDS)
    return here


@sharing.function(cpu=1, idle_timeout=IDLE_SECONDS)
def make(megabytes: int) -> Any:
    return array(megabytes)


@sharing.function(cpu=2, idle_timeout=IDLE_SECONDS)
def use(made: stoker.Call[Any]) -> float:
    return total(made.result())


def round_trip() -> Iterator[Callable[..., Any]]:
    with app.run(show_progress=False):

        def turn(calls: int) -> dict[str, float]:
            for _ in range(WARM_CALLS // 100):
                nothing.remote()
            return percentiles(nothing.remote, calls)

        yield turn


def map_throughput(workers: int = 2) -> Iterator[Callable[..., Any]]:
    """Map over both nodes, whose workers are there when the clock starts."""
    with app.run(show_progress=False):

        def turn(calls: int) -> dict[str, float]:
            give_up = time.monotonic() + WARM_SECONDS
            while len(workers_of("nothing")) < workers:
                if time.monotonic() > give_up:
                    raise AssertionError(f"no {workers} workers")
                sum(1 for _ in nothing.map(range(WARM_CALLS)))
            return rate(lambda: nothing.map(range(calls)), calls)

        yield turn


def workers_of(function: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = sessions.current().request("workers", {})
    return [row for row in rows if row["function"].endswith(f".{function}")]


def scale() -> Iterator[Callable[..., Any]]:
    """Start workers where there is none: the environment and the zygotes are there."""
    with app.run(show_progress=False):
        rounds = 0

        def turn(workers: int) -> dict[str, float]:
            nonlocal rounds
            while workers_of("arrives"):
                time.sleep(0.05)
            rounds += 1
            directory = Path(os.environ["BENCH_SCRATCH"]) / f"arrived{rounds}"
            directory.mkdir()
            began = time.perf_counter()
            pids = list(arrives.starmap((str(directory), number, workers) for number in range(workers)))
            took = time.perf_counter() - began
            if len(set(pids)) != workers:
                raise AssertionError(f"{len(set(pids))} workers instead of {workers}")
            return {"s": took}

        yield turn


def shared() -> Iterator[Callable[..., Any]]:
    """A big result that one node has made is used by calls on the other."""
    with sharing.run(show_progress=False):

        def turn(megabytes: int, calls: int) -> dict[str, float]:
            made = make.spawn(megabytes)
            list(use.map([make.spawn(1)] * 2))  # the workers there are up
            while made.status() != "succeeded":
                time.sleep(0.01)
            return crossed(lambda: list(use.map([made] * calls)), megabytes, calls)

        yield turn
