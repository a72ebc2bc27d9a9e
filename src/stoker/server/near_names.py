"""Which name was meant by one that there is none of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEAR = 0.65  # how alike a name is to the one that it is taken for: "ff" for "f", and no "primes" for "iris"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the one of these names that is nearest, whatever its case; empty where none is near."""
    by_lower = {one.lower(): one for one in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=NEAR)
    return by_lower[near[0]] if near else ""
