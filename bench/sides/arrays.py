"""A large array in, a large array out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PAGE_ITEMS = 512


def one_array(x: Any, call: Callable[[Any], Any]) -> dict[str, float]:
    """Return the seconds until every page of the result was read here."""
    began = time.perf_counter()
    y = call(x)
    total = float(y[::PAGE_ITEMS].sum())
    took = time.perf_counter() - began
    if total != 2.0 * len(y[::PAGE_ITEMS]) or len(y) != len(x):
        raise AssertionError(f"a wrong result: {total} for {len(y)} items")
    return {"seconds": took}
