"""Who waits for which detached call: results of this term, and those that only the store knows.

A program may ask for a hundred thousand handles at once. The store is read in a thread, some at a time, so that the
loop goes on with everything else in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.core.calls import Delivery, Result
from stoker.errors import NotFound, StokerError, StoreError
from stoker.protocol import messages as m
from stoker.server import token_limits
from stoker.server.execution import error_info
from stoker.server.payloads import stored
from stoker.store.base import CallRecord
from stoker.types import CallState, ErrorInfo, Outcome

if TYPE_CHECKING:
    from stoker.server.server import Server
    from stoker.server.sessions import Session

log = logging.getLogger(__name__)

IDS_AT_ONCE = 200  # looked up together: a few milliseconds
RETRY_SECONDS = 1.0  # between tries to read a store that refuses


class Watches:
    """See the module."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._watchers: dict[str, list[Session]] = {}

    def watch(self, session: Session, ids: Sequence[str]) -> None:
        """Send the results of detached calls, of this term or an earlier one, now or when they are there."""
        self._server.run(self._watch(session, ids), name=f"watch of {len(ids)}")

    def unwatch(self, ids: Iterable[str]) -> None:
        for call_id in ids:
            self._watchers.pop(call_id, None)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Send calls that have ended to those who watch them, and to the session that made them."""
        sessions = self._server.sessions
        by_session: dict[Session, list[Delivery]] = {}
        for delivery in deliveries:
            wanted = dict.fromkeys(self._watchers.pop(delivery.id, ()))
            if delivery.call and (asker := sessions.get(delivery.call.client)):
                wanted[asker] = None
            for session in wanted:
                by_session.setdefault(session, []).append(delivery)
        for session, theirs in by_session.items():
            if sessions.get(session.name) is session:
                session.deliver(theirs)

    def look_up(self, call_id: str) -> None:
        """Have those who wait for a call told what the store says of it: it was settled there and nowhere else."""
        for session in self._watchers.pop(call_id, []):
            self.watch(session, [call_id])

    async def _watch(self, session: Session, ids: Sequence[str]) -> None:
        ids = await self._may_be_seen(session, ids)
        for first in range(0, len(ids), IDS_AT_ONCE):
            some = ids[first : first + IDS_AT_ONCE]
            # Before the store is read: what ends meanwhile is delivered as it ends.
            for call_id in some:
                watchers = self._watchers.setdefault(call_id, [])
                if session not in watchers:
                    watchers.append(session)
            # Even where the session has been sent it: it may have dealt with that, and asks for another handle.
            unknown = [call_id for call_id in some if call_id not in self._server.plane.state.calls]
            if unknown:
                self._answer(session, await self._ended(unknown))
            await asyncio.sleep(0)

    async def _may_be_seen(self, session: Session, ids: Sequence[str]) -> Sequence[str]:
        """Return those that the session's token allows to know of; it is told that there are no others."""
        token = token_limits.token_of(self._server, session)
        if token is None or not token.is_limited:
            return ids
        seen = []
        for call_id in ids:
            try:
                await token_limits.check_call_id(self._server, session, call_id)
            except NotFound as error:
                session.send(m.RefusedCalls([call_id], error_info(error)))
            else:
                seen.append(call_id)
        self._server.flush()
        return seen

    async def _ended(self, ids: Sequence[str]) -> list[Delivery]:
        """Return those of these calls that will not end any more: they have, or there are none."""
        store, files = self._server.store, self._server.files

        def read() -> list[Delivery]:
            records = [(call_id, store.call(call_id)) for call_id in ids]
            files.bring([record.settled.payload_blob for _, record in records if record and record.settled])
            return [
                stored_delivery(call_id, record, files.spill)
                for call_id, record in records
                if record is None or record.settled is not None
            ]

        while True:
            try:
                return await asyncio.to_thread(read)
            except StoreError as error:
                log.error("calls that are waited for could not be looked up; tried again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def _answer(self, session: Session, found: Sequence[Delivery]) -> None:
        """Deliver what the store knows, unless it was delivered, or the session left, while it was read."""
        open_ones = []
        for delivery in found:
            watchers = self._watchers.get(delivery.id, [])
            if session in watchers:
                watchers.remove(session)
                open_ones.append(delivery)
            if not watchers:
                self._watchers.pop(delivery.id, None)
        if open_ones and self._server.sessions.get(session.name) is session:
            session.deliver(open_ones)
            self._server.flush()


def stored_delivery(call_id: str, record: CallRecord | None, spill: Path) -> Delivery:
    """Return the end of a detached call as the store knows it."""
    if record is None or record.settled is None:
        message = f"There is no call {call_id}. Calls that were not spawned end with their program and leave no record."
        return Delivery(call_id, Result(Outcome.ERROR, error=ErrorInfo("NotFound", message)), 0)
    if record.expired:
        message = (
            f"Call {call_id} ended; its result was kept for the stated time (STOKER_RESULT_RETENTION) and is gone."
        )
        return Delivery(call_id, Result(Outcome.ERROR, error=ErrorInfo("ResultExpired", message)), 0)
    settled = record.settled
    try:
        payload = stored(settled.payload, settled.payload_blob, spill)
    except StokerError as error:
        return Delivery(call_id, Result(Outcome.ERROR, error=error_info(error)), 0)
    outcome = {CallState.SUCCEEDED: Outcome.VALUE, CallState.CANCELLED: Outcome.CANCELLED}.get(
        settled.state, Outcome.ERROR
    )
    return Delivery(call_id, Result(outcome, payload, settled.error), settled.attempts)
