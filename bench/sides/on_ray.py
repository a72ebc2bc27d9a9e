"""The work on Ray: its defaults, but for a small object store and no dashboard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from bench.sides.timing import percentiles, rate

OBJECT_STORE_BYTES = 2 << 30
CORES = len(os.sched_getaffinity(0))


@ray.remote
def nothing(x: int = 0) -> int:
    return x


@ray.remote
def add_one(x: Any) -> Any:
    return x + 1


@contextmanager
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level="error",
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def round_trip() -> Iterator[Callable[..., Any]]:
    with cluster():
        yield lambda calls: percentiles(lambda: ray.get(nothing.remote()), calls)


def map_throughput() -> Iterator[Callable[..., Any]]:
    with cluster():
        yield lambda calls: rate(lambda: ray.get([nothing.remote(x) for x in range(calls)]), calls)


def large_arrays() -> Iterator[Callable[..., Any]]:
    import numpy

    from bench.sides.arrays import one_array

    with cluster():
        yield lambda megabytes: one_array(numpy.ones(megabytes * 125_000), lambda x: ray.get(add_one.remote(x)))


def idle() -> Iterator[Callable[..., Any]]:
    from bench.sides.idling import idling

    with cluster():
        ray.get(nothing.remote())
        before = set(ray_processes())
        yield lambda seconds: idling(sorted(before), seconds)


def ray_processes() -> list[int]:
    """Return Ray's own processes, its workers apart."""
    from bench.processes import command, descendants

    return [pid for pid in descendants(os.getpid()) if not any("ray::" in word for word in command(pid)[:1])]
