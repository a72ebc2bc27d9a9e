"""What becomes of payloads' copies in a remote blob store, and of the files here that are only copies of those.

A copy that nothing names was left by a server that was killed between writing it and its commit. The blob store does
not say how old it is, so it is deleted at the second look that finds it. A file that has a copy may go when the disk
holds too many: it is fetched again when somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.errors import StokerError
from stoker.server import orphans
from stoker.server.kept_payloads import KeptPayloads

if TYPE_CHECKING:
    from stoker.server.server import Server

log = logging.getLogger(__name__)

LOCAL_BYTES = 20 << 30  # of payload files that are only copies: past it, those used longest ago go
LOOKS_PER_LIST = 36  # of the files here, for one of the copies: a list of a million costs 1000 requests
_NAMES_AT_ONCE = 1000


async def sweep(server: Server, kept: KeptPayloads) -> None:
    """Look for what may go now and then, for as long as the server runs."""
    seen: set[str] = set()
    looks = 0
    while True:
        await asyncio.sleep(orphans.LOOK_SECONDS)
        try:
            await make_room(server, kept)
            if looks % LOOKS_PER_LIST == 0:
                seen = await sweep_copies(server, kept, seen)
        except (StokerError, OSError) as error:
            log.warning("copies of payloads could not be looked through: %s", error)
        looks += 1


async def sweep_copies(server: Server, kept: KeptPayloads, seen: Collection[str]) -> set[str]:
    """Delete the copies that nothing names and that were ``seen`` so before; return those seen now."""
    names = {name for name in await asyncio.to_thread(kept.names) if orphans.is_abandoned(server, name)}
    names = await _unnamed(server, names)
    if names:
        # What is on its way into the store is known here first, and there as soon as it is not known here.
        names -= await orphans.wanted(server)
        names = await _unnamed(server, names)
    names = {name for name in names if orphans.is_abandoned(server, name)}
    due = names.intersection(seen)
    kept.delete(due)
    return names - due


async def make_room(server: Server, kept: KeptPayloads, *, limit: int = LOCAL_BYTES) -> list[str]:
    """Remove the files of the spill directory that were used longest ago and are kept elsewhere, down to the limit."""
    grace = server.plane.state.limits.client_grace
    found = await asyncio.to_thread(lambda: sorted(_files(server.files.spill)))
    too_many = sum(size for _, size, _ in found) - limit
    if too_many <= 0:
        return []
    removed: list[str] = []
    copies = set(await asyncio.to_thread(kept.names))
    in_use = await orphans.wanted(server)
    for used, size, name in found:
        if too_many <= 0:
            break
        if name in copies and name not in in_use and used < time.time() - grace:
            (server.files.spill / name).unlink(missing_ok=True)  # whoever has mapped it keeps its bytes
            too_many -= size
            removed.append(name)
    return removed


async def _unnamed(server: Server, names: set[str]) -> set[str]:
    left: set[str] = set()
    some = sorted(names)
    for at in range(0, len(some), _NAMES_AT_ONCE):
        page = set(some[at : at + _NAMES_AT_ONCE])
        left |= page - await asyncio.to_thread(server.store.named, page)
    return left


def _files(directory: Path) -> Iterator[tuple[float, int, str]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                about = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(about.st_mode):
                yield max(about.st_mtime, about.st_atime), about.st_size, entry.name
