"""The work on the standard library's process pools, two processes each as Stoker has two workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from bench.sides.timing import percentiles, rate, tenths

CORES = len(os.sched_getaffinity(0))


def nothing(x: int = 0) -> int:
    return x


def add_one(x: Any) -> Any:
    return x + 1


def round_trip() -> Iterator[Callable[..., Any]]:
    with ProcessPoolExecutor(CORES) as pool:
        yield lambda calls: percentiles(lambda: pool.submit(nothing).result(), calls)


def map_throughput() -> Iterator[Callable[..., Any]]:
    with get_context("fork").Pool(CORES) as pool:
        yield lambda calls: rate(lambda: pool.imap(nothing, range(calls), chunksize=1), calls)


def large_arrays() -> Iterator[Callable[..., Any]]:
    import numpy

    from bench.sides.arrays import one_array

    with ProcessPoolExecutor(CORES) as pool:
        yield lambda megabytes: one_array(numpy.ones(megabytes * 125_000), lambda x: pool.submit(add_one, x).result())


def million_map() -> Iterator[Callable[..., Any]]:
    """One long `imap`: its rate, tenth by tenth, and the memory of the client."""
    with get_context("fork").Pool(CORES) as pool:

        def turn(calls: int) -> dict[str, Any]:
            results = pool.imap(nothing, iter(range(calls)), chunksize=1)
            return tenths(results, calls, {"client": os.getpid()})

        yield turn
