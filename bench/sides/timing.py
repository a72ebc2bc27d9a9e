"""Timing a turn of work, the same on every side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from bench.processes import rss


def percentiles(call: Callable[[], Any], calls: int) -> dict[str, float]:
    """Return the 50th and 99th percentile of calls made one after another, in milliseconds."""
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50": 1e3 * took[calls // 2], "p99": 1e3 * took[calls * 99 // 100]}


def rate(work: Callable[[], Iterable[Any]], calls: int) -> dict[str, float]:
    """Return how many results came a second."""
    began = time.perf_counter()
    count = sum(1 for _ in work())
    took = time.perf_counter() - began
    if count != calls:
        raise AssertionError(f"{count} results instead of {calls}")
    return {"rate": calls / took}


def tenths(results: Iterator[Any], calls: int, pids: Mapping[str, int]) -> dict[str, Any]:
    """Read results to their end; return the rate of each tenth, and the memory of processes at each fiftieth."""
    rates = []
    memory: dict[str, list[float]] = {name: [] for name in pids}
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(5):
            count = sum(1 for _ in islice(results, calls // 50))
            if count != calls // 50:
                raise AssertionError(f"{count} results instead of {calls // 50}")
            for name, pid in pids.items():
                memory[name].append(rss(pid))
        rates.append(calls / 10 / (time.perf_counter() - began))
    return {"tenths": rates, **memory}
