"""Ray's blocking calls, off the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def ended(work: asyncio.Future[Any]) -> None:
    """Wait until something has ended, however often this is cancelled meanwhile; that is raised then."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Run ``work`` in a thread; one that is cancelled meanwhile still waits for it, to undo its effect."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        if not task.cancelled():
            task.exception()  # nobody asks for it any more
        raise
