"""What a call with a large array cannot do without, in one process and without a call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from bench.sides.arrays import PAGE_ITEMS
from stoker.transport.segments import SegmentDir


def stages() -> Iterator[Callable[..., Any]]:
    """Yield a turn. ``written``: an array copied into shared memory that was used before, which a call does twice.

    ``computed``: mapped, and ``x + 1`` made of it. ``read``: mapped, and every page of it read.
    """
    directory = Path("/dev/shm", f"stoker-bench-{os.getpid()}")
    directory.mkdir(mode=0o700)
    segments = SegmentDir(directory, pool_bytes=1 << 30)
    try:
        yield lambda megabytes: _turn(segments, numpy.ones(megabytes * 125_000))
    finally:
        segments.sweep(set())
        (directory / "+pool").rmdir()
        directory.rmdir()


def _turn(segments: SegmentDir, x: Any) -> dict[str, float]:
    took = {"written": _timed(lambda: segments.write("x", [memoryview(x).cast("B")]))}
    took["computed"] = _timed(lambda: numpy.frombuffer(segments.map("x"), x.dtype) + 1)
    took["read"] = _timed(lambda: _sum(segments.map("x"), x.dtype))
    segments.delete("x")
    return took


def _timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _sum(view: memoryview, dtype: Any) -> float:
    return float(numpy.frombuffer(view, dtype)[::PAGE_ITEMS].sum())
