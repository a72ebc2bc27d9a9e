"""What is served, the same on every side."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy

FEATURES = 16
CLASSES = 10
BATCH_MAX = 32
BATCH_SECONDS = 0.005  # of a batch of any size: a model on a device
SLOW_SECONDS = 0.005

_random = numpy.random.default_rng(0)
_first = _random.standard_normal((FEATURES, 64))
_second = _random.standard_normal((64, CLASSES))


def echo(x: float) -> dict[str, float]:
    return {"y": 2 * x}


def labels(rows: Any) -> list[int]:
    """Return the class of each row of features, after `BATCH_SECONDS` however many there are."""
    until = time.perf_counter() + BATCH_SECONDS
    hidden = numpy.maximum(numpy.asarray(rows, dtype=float) @ _first, 0)
    found = (hidden @ _second).argmax(axis=1).tolist()
    time.sleep(max(0.0, until - time.perf_counter()))
    return found


def slow(x: float) -> dict[str, float]:
    """Hold the worker, one request at a time."""
    time.sleep(SLOW_SECONDS)
    return {"y": 2 * x}


def until_told() -> None:
    """Return when whoever has started this program lets it go.

    Not by `sys.stdin`, whose lock a child that is forked meanwhile would inherit.
    """
    while os.read(0, 4096):
        pass
