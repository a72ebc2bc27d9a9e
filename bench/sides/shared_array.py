"""A big array that is made on one node and used on another, and what of it went over the network meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PAGE_ITEMS = 512


def array(megabytes: int) -> Any:
    import numpy

    return numpy.ones(megabytes * 125_000)


def total(found: Any) -> float:
    """Read every page."""
    return float(found[::PAGE_ITEMS].sum())


def crossed(use: Callable[[], list[float]], megabytes: int, calls: int) -> dict[str, float]:
    """Return how long the calls took, and how many times the array's bytes went over the loopback device."""
    before, began = _sent(), time.perf_counter()
    totals = use()
    took, sent = time.perf_counter() - began, _sent() - before
    pages = -(-megabytes * 125_000 // PAGE_ITEMS)
    if totals != [float(pages)] * calls:
        raise AssertionError(f"a wrong result: {totals} for {pages} pages")
    return {"seconds": took, "times": sent / (megabytes * 1e6)}


def _sent() -> int:
    import psutil

    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)
