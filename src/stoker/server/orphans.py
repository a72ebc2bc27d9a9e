"""Payload files that nobody will ask for: their writer was killed between writing them and saying so.

A client names its files after its calls (``<session>.<number>.a``), a worker after itself (``r-<worker>-<number>``).
One whose writer is gone, and that no call, result or item names, is deleted after the grace in which its writer could
have come back. In the spill directory, where files of stored calls are, the store must not name it either: a server
that was killed between copying a payload there and its commit left one that nobody knows of.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.calls import Payload, Segment
from stoker.errors import StokerError

if TYPE_CHECKING:
    from stoker.server.server import Server

log = logging.getLogger(__name__)

LOOK_SECONDS = 600.0
LOOKS_PER_SPILL = 36  # it may hold a million files, and what is left there was left by a crash or a full /dev/shm
FILES_AT_ONCE = 1000  # looked at together: bounds memory, and how long the store's answer takes
CALLS_AT_ONCE = 20_000  # walked over before the loop goes on with other things


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
    looks = 0
    while True:
        try:
            await sweep_once(server)
            if looks % LOOKS_PER_SPILL == 0:
                await sweep_spill(server)
        except (StokerError, OSError) as error:
            log.warning("orphaned payloads could not be looked for: %s", error)
        looks += 1
        await asyncio.sleep(LOOK_SECONDS)


async def sweep_once(server: Server) -> list[str]:
    """Delete the orphans that there are in shared memory; return their names."""
    old = await asyncio.to_thread(list, _older_than(server.files.segments, server.plane.state.limits.client_grace))
    names = {name for name in old if is_abandoned(server, name)}
    if names:
        names -= await wanted(server)
    return _discard(server, names)


async def sweep_spill(server: Server) -> list[str]:
    """Delete the orphans that there are in the spill directory, file by file; return their names."""
    deleted: list[str] = []
    files = _older_than(server.files.spill, server.plane.state.limits.client_grace)
    while old := await asyncio.to_thread(lambda: list(islice(files, FILES_AT_ONCE))):
        names = {name for name in old if is_abandoned(server, name)}
        if names:
            names -= await asyncio.to_thread(server.store.named, names)
        if names:
            # What is on its way into the store is known here first, and there as soon as it is not known here.
            names -= await wanted(server)
            names -= await asyncio.to_thread(server.store.named, names)
        deleted += _discard(server, names)
    return deleted


def _discard(server: Server, names: set[str]) -> list[str]:
    gone = sorted(name for name in names if is_abandoned(server, name))  # still: its writer may have come meanwhile
    if gone:
        server.discard([Segment(name, 0) for name in gone])
    return gone


def _older_than(directory: Path, seconds: float) -> Iterator[str]:
    limit = time.time() - seconds
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < limit:
                    yield entry.name
            except FileNotFoundError:
                continue


def is_abandoned(server: Server, name: str) -> bool:
    """Tell whether whoever wrote a file will not come back."""
    kind, writer = writer_of(name)
    if kind == "client":
        return writer not in server.sessions
    return kind == "worker" and writer not in server.plane.state.workers


async def wanted(server: Server) -> set[str]:
    """Return the files that calls, results and items name. It walks over all there is: asked only when one may go."""
    state = server.plane.state
    loads: list[Payload] = []
    for held in state.held.values():
        loads += [held.result.payload] if held.result is not None else []
        loads += [load for _, items in held.items for load in items]
    for settlements in state.settling.values():
        loads += [settlement.result.payload for settlement in settlements]
    loads += [settlement.result.payload for settlement in state.settlements]
    for session in server.sessions.values():
        loads += session.owed_payloads()
    names = set(_names(loads))
    # A call that ends meanwhile hands its files on, to one that names them then or to nobody.
    calls = iter(list(state.calls.values()))
    while some := list(islice(calls, CALLS_AT_ONCE)):
        names.update(_names(call.payload for call in some))
        await asyncio.sleep(0)
    return names


def _names(loads: Iterable[Payload]) -> Iterable[str]:
    return (load.name for load in loads if isinstance(load, Segment))
