"""What a server does about its past: calls that were accepted before, results that were kept long enough."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from stoker.core import events as e
from stoker.errors import StokerError, StoreError
from stoker.server.functions import OLD_VERSIONS_KEPT
from stoker.server.payloads import stored
from stoker.store.base import PendingRow, SettledRow
from stoker.types import CallState, ErrorInfo

if TYPE_CHECKING:
    from stoker.server.server import Server

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # between tries to read a store that refuses
PAGE_ROWS = 2000  # read and taken in at once: the loop stays answerable, and the first leases go out early


async def restore_pending(server: Server) -> None:
    """Take every accepted and unsettled call back in, in order, while the server works on.

    A store that cannot be read any further ends the server: going on without some of its calls would hide them.
    """
    try:
        await _restore_pages(server)
        server.early_cancels.end()
    except StokerError as error:
        log.error("this server ends: its accepted calls could not be read: %s", error)
        server.stopping.set()


async def _restore_pages(server: Server) -> None:
    after, last = 0, 0
    while not last or after < last:
        try:
            last = last or server.store.last_seq()
            rows = await asyncio.to_thread(server.store.pending, after_seq=after, limit=PAGE_ROWS)
            await asyncio.to_thread(server.files.bring, [row.call.payload_blob for row in rows])
            events = [event for row in rows if row.call.seq <= last and (event := _restored(server, row)) is not None]
        except StoreError as error:
            log.error("calls that were accepted before cannot be read; tried again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            continue
        if not rows:
            return
        after = rows[-1].call.seq
        restored = [(event.id, server.functions.specs[event.function]) for event in events]
        server.decide(*events, *server.functions.outdated_pools(), *server.early_cancels.due(restored))
        server.flush()
        await asyncio.sleep(0)


def _restored(server: Server, row: PendingRow) -> e.Restored | None:
    call = row.call
    function = server.functions.restored_as(call.function)
    spec = server.functions.ensure(function)
    if spec is None:
        _give_up(server, row, "Its function is not known to this server any more.")
        return None
    try:
        payload = stored(call.payload, call.payload_blob, server.files.spill)
    except StokerError as error:
        _give_up(server, row, str(error))
        return None
    if function not in server.plane.state.pools:
        server.decide(e.FunctionDeclared(spec, function))  # it was retired, and gone for want of calls
    wall = server.wall_offset
    return e.Restored(
        id=call.id,
        seq=call.seq,
        function=function,
        client=call.client,
        payload=payload,
        created=call.created - wall,
        priority=call.priority,
        deadline=None if call.deadline is None else call.deadline - wall,
        parent=call.parent,
        failures=row.failures,
        losses=row.losses,
        not_before=row.not_before - wall if row.not_before else 0.0,
        history=[(at - wall, event, detail) for at, event, detail in json.loads(row.timeline or "[]")],
        method=call.method,
        trace=call.trace,
    )


def _give_up(server: Server, row: PendingRow, reason: str) -> None:
    """Settle a call that cannot be run any more, with the reason."""
    log.error("call %s cannot be restored: %s", row.call.id, reason)
    error = ErrorInfo("NotFound", f"Call {row.call.id} could not be taken up again after a restart: {reason}")
    finished = server.now() + server.wall_offset
    settled = SettledRow(row.call.seq, row.call.id, CallState.FAILED, finished, row.failures + row.losses, error=error)
    server.writer.write(0, lambda: [settled])

    def written() -> None:
        server.loop.call_soon_threadsafe(server.watches.look_up, row.call.id)
        server.loop.call_soon_threadsafe(server.callbacks.settled, [row.call.id])

    server.writer.job(written)


async def expire_results(server: Server, *, every: float) -> None:
    """Drop results that were kept for the stated time, and functions that nothing has needed for as long."""
    while True:
        before = server.now() + server.wall_offset - server.config.retention

        def expire(before: float = before) -> None:
            names = server.store.expire(server.epoch, finished_before=before)
            server.store.expire_callbacks(server.epoch, over_before=before)
            server.files.forget(names)
            if names:
                server.loop.call_soon_threadsafe(server.deleted, names)

        server.writer.job(expire)
        prune_functions(server)
        await asyncio.sleep(every)


def prune_functions(server: Server) -> None:
    """Drop what no deployment, pool, call or result points at; the latest old versions stay, to be rolled back to."""
    in_use = server.functions.in_use(server.plane.state.pools)
    now = server.now() + server.wall_offset

    def forget(keys: list[str]) -> None:
        server.functions.forget(keys, server.plane.state.pools)

    def prune() -> None:
        dropped = server.store.prune(
            server.epoch, in_use=in_use, old_versions=OLD_VERSIONS_KEPT, now=now, unused_for=server.config.retention
        )
        if dropped:
            server.loop.call_soon_threadsafe(forget, dropped)

    server.writer.job(prune)
