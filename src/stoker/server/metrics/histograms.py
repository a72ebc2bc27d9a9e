"""Histograms that are cheap to add to: they are written out as Prometheus wants them only when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
"""Upper bounds, from a short request to a long job."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Buckets(NamedTuple):
    """A histogram as it was at one moment: how many were at most each bound, and what they add up to."""

    upto: list[tuple[str, float]]
    total: float


class Histogram:
    """Counts of values between bounds. A value on a bound counts as below it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def read(self) -> Buckets:
        upto, so_far = [], 0
        for name, count in zip(_names(self.bounds), self.counts, strict=True):
            so_far += count
            upto.append((name, float(so_far)))
        return Buckets(upto, self.total)


def _names(bounds: Sequence[float]) -> list[str]:
    return [*(f"{bound:g}" if bound % 1 else f"{bound:.1f}" for bound in bounds), "+Inf"]
