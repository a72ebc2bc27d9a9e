"""Timing a turn of work, the same on every side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any


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
