"""Waiting for what other processes do: polling with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_SECONDS = 30.0


async def until(look: Callable[[], T], *, what: str = "", patience: float = PATIENCE_SECONDS) -> T:
    """Return the first true value that ``look`` returns."""
    give_up = time.monotonic() + patience
    while not (found := look()):
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {patience:g} s in vain for {what or look}")
        await asyncio.sleep(0.01)
    return found
