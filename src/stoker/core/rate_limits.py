"""How often somebody may call: a token bucket, which lets a burst through and then so many a second."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from stoker.errors import InvalidOption

PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
COUNT_MAX = 1_000_000_000  # more than any server answers in a day
ROUNDING = 1e-6  # of a call: who has waited as long as was said finds it there, whatever sums are rounded to
_RATE = re.compile(r"([0-9]{1,10})\s*/\s*([a-z]+)")


@dataclass(frozen=True)
class Rate:
    """``count`` calls in ``seconds``; ``burst`` of them at once, if nothing was asked for before."""

    count: int
    seconds: float
    burst: int

    @classmethod
    def parse(cls, text: str, *, burst: int | None = None) -> Rate:
        """Read ``100/s``, ``30/m``, ``1000/h`` or ``5000/d``; the burst is the whole count unless it is given.

        Raises:
            InvalidOption: it is none, or the burst is not positive.
        """
        found = _RATE.fullmatch(text.strip())
        count = int(found[1]) if found else 0
        if found is None or found[2] not in PERIODS or not 0 < count <= COUNT_MAX:
            raise InvalidOption(
                f"--rate {text} is no rate. Write a whole number of calls and a period, as in 100/s, 30/m, "
                "1000/h or 5000/d."
            )
        if burst is not None and not 0 < burst <= COUNT_MAX:
            raise InvalidOption(f"A burst is a whole number of calls, from 1 to {COUNT_MAX}, not {burst}.")
        return cls(count, PERIODS[found[2]], count if burst is None else burst)

    def __str__(self) -> str:
        period = next(name for name, seconds in PERIODS.items() if seconds == self.seconds)
        return f"{self.count}/{period}" + (f", {self.burst} at once" if self.burst != self.count else "")

    @property
    def per_second(self) -> float:
        return self.count / self.seconds


class Bucket:
    """What is left of a rate. Full at first; times are seconds of any clock that never goes back."""

    __slots__ = ("_at", "_level", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._level = float(rate.burst)
        self._at = now

    def take(self, now: float, count: int = 1) -> float:
        """Take so many calls out, and return 0; or take nothing, and return the seconds until they are there.

        More than the burst are never there together: infinity.
        """
        self._fill(now)
        if count > self.rate.burst:
            return math.inf
        if self._level >= count - ROUNDING:
            self._level -= count
            return 0.0
        return (count - self._level) / self.rate.per_second

    def remaining(self, now: float) -> int:
        """Return how many calls could be made at once."""
        self._fill(now)
        return int(self._level + ROUNDING)

    def until_full(self, now: float) -> float:
        """Return the seconds until the whole burst is there again."""
        self._fill(now)
        return max(0.0, self.rate.burst - self._level) / self.rate.per_second

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._level = min(float(self.rate.burst), self._level + (now - self._at) * self.rate.per_second)
            self._at = now
