"""The work on Stoker, in a program's own embedded server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import stoker
from bench.processes import servers_under
from bench.sides.timing import percentiles, rate, tenths

app = stoker.App("bench")


@app.function()
def nothing(x: int = 0) -> int:
    return x


@app.function()
def add_one(x: Any) -> Any:
    return x + 1


def round_trip() -> Iterator[Callable[..., Any]]:
    with app.run(show_progress=False):
        yield lambda calls: percentiles(nothing.remote, calls)


def map_throughput() -> Iterator[Callable[..., Any]]:
    with app.run(show_progress=False):
        yield lambda calls: rate(lambda: nothing.map(range(calls)), calls)


def large_arrays() -> Iterator[Callable[..., Any]]:
    import numpy

    from bench.sides.arrays import one_array

    with app.run(show_progress=False):
        yield lambda megabytes: one_array(numpy.ones(megabytes * 125_000), add_one.remote)


def million_map() -> Iterator[Callable[..., Any]]:
    """One long map: its rate, tenth by tenth, and the memory of client and server."""
    with app.run(show_progress=False):
        nothing.remote()
        server = servers_under(os.getpid())[0]

        def turn(calls: int) -> dict[str, Any]:
            results = nothing.map(iter(range(calls)))
            return tenths(results, calls, {"client": os.getpid(), "server": server})

        yield turn
