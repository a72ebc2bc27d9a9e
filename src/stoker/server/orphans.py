"""Payload files that nobody will ask for: their writer was killed between writing them and saying so.

A client names its files after its calls (``<session>.<number>.a``), a worker after itself (``r-<worker>-<number>``).
One whose writer is gone, and that no call, result or item names, is deleted after the grace in which its writer could
have come back. Files of stored calls in the spill directory are the store's to name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.calls import Payload, Segment

if TYPE_CHECKING:
    from stoker.server.server import Server

LOOK_SECONDS = 600.0


def writer_of(name: str) -> tuple[str, str]:
    """Return who wrote a file: ("client", its session), ("worker", its id), or ("", "") for what is nobody's."""
    if name.startswith("r-") and "-" in name[2:]:
        return "worker", name[2:].rpartition("-")[0]
    if name.endswith(".a") and name.count(".") == 2:
        return "client", name.partition(".")[0]
    return "", ""


async def sweep(server: Server) -> None:
    """Look for orphans now and then, for as long as the server runs."""
    await asyncio.sleep(server.plane.state.limits.client_grace)
    while True:
        await sweep_once(server)
        await asyncio.sleep(LOOK_SECONDS)


async def sweep_once(server: Server) -> list[str]:
    """Delete the orphans that there are; return their names."""
    old = await asyncio.to_thread(_older_than, server.files.segments, server.plane.state.limits.client_grace)
    names = {name for name in old if _is_abandoned(server, name)}
    if names:
        names -= _named(server)
    if names:
        server.discard([Segment(name, 0) for name in names])
    return sorted(names)


def _older_than(directory: Path, seconds: float) -> list[str]:
    limit = time.time() - seconds
    found = []
    for path in directory.iterdir():
        try:
            if path.is_file() and path.stat().st_mtime < limit:
                found.append(path.name)
        except FileNotFoundError:
            continue
    return found


def _is_abandoned(server: Server, name: str) -> bool:
    kind, writer = writer_of(name)
    if kind == "client":
        return writer not in server.sessions
    return kind == "worker" and writer not in server.plane.state.workers


def _named(server: Server) -> set[str]:
    """Return the files that are still wanted. It walks over all there is, so it is asked only when one may go."""
    state = server.plane.state
    loads: list[Payload] = [call.payload for call in state.calls.values()]
    for held in state.held.values():
        loads += [held.result.payload] if held.result is not None else []
        loads += [load for _, items in held.items for load in items]
    for settlements in state.settling.values():
        loads += [settlement.result.payload for settlement in settlements]
    loads += [settlement.result.payload for settlement in state.settlements]
    for session in server.sessions.values():
        loads += session.owed_payloads()
    return set(_names(loads))


def _names(loads: Iterable[Payload]) -> Iterable[str]:
    return (load.name for load in loads if isinstance(load, Segment))
