"""Which of two versions of an app a call goes to: by share, or by a key of its own; and which one a rollback is to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

PARTS = 10_000  # a share is counted in these: hundredths of a percent
_STEP = 6_181  # about the golden ratio of PARTS, and prime to it: its multiples come close to each other late


class Turns:
    """Who is next, so that at any moment the calls taken differ from their share by less than one call.

    Error diffusion with a threshold that wanders: an exact share without a period, so that it never falls into step
    with callers that are periodic themselves (every tenth call a health check, say). The first call is taken: a version
    that cannot run is known at once. The share may change at any time.
    """

    __slots__ = ("_owed", "_taken")

    def __init__(self) -> None:
        self._owed = 0  # in parts: between -PARTS and PARTS
        self._taken = 0

    def take(self, parts: int) -> bool:
        """Tell whether the next call is taken, of which so many in `PARTS` are to be."""
        if parts <= 0 or parts >= PARTS:
            return parts > 0
        self._owed += parts
        if self._owed <= self._taken * _STEP % PARTS:
            return False
        self._owed -= PARTS
        self._taken += 1
        return True


def takes(key: str, parts: int, *, among: str) -> bool:
    """Tell whether calls with a key of their own are taken: always the same, and once taken still so at greater shares.

    ``among`` is what is divided: the same keys are others' elsewhere.
    """
    digest = hashlib.sha256(f"{among}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * PARTS >> 64 < parts


def version_before(current: int, answered: Iterable[int], same_as: Mapping[int, int]) -> int | None:
    """Return the version to roll back to: the newest of those that have answered by themselves before this one.

    ``same_as`` says which version one made by a rollback is the same as. Such a one stands where that stood, so that
    each of several rollbacks in a row goes further back, and none brings back what was backed out of.
    """
    while same_as.get(current, current) < current:
        current = same_as[current]
    return max((version for version in answered if version < current), default=None)
