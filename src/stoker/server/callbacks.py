"""Callbacks: who has asked to be told how a call ends is told, by a signed POST, for as long as a day if need be.

A callback is written down before its call is, so that a call which was accepted with one is never without it; one
whose call never came about is dropped at the next start. It is sent at least once: a server that ends between an answer
and its note sends it again, with the same id.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from stoker.core.callback_targets import Target, parse_target
from stoker.core.callbacks import Answer, Line, judge
from stoker.errors import InvalidRequest, NotFound, Overloaded, PermissionDenied, StokerError, StoreError
from stoker.server.callback_messages import message_of
from stoker.server.callback_signing import CallbackSigner
from stoker.store.base import CallbackRow, CallRecord

if TYPE_CHECKING:
    from stoker.server.server import Server

OPEN_MAX = 100_000  # callbacks that are not over: they are held in memory
RETRY_SECONDS = 1.0  # between tries to read a store that refuses
log = logging.getLogger(__name__)


class Callbacks:
    """See the module."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.signer = CallbackSigner(server.config.state_dir / "callback.secret")
        self._waiting: dict[str, CallbackRow] = {}  # for their calls to end
        self._due: dict[str, CallbackRow] = {}
        self._line = Line()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        """Return how many are not over."""
        return len(self._waiting) + len(self._due)

    # What is asked

    async def check(self, url: str) -> None:
        """Make sure that a callback may go there.

        Raises:
            InvalidRequest: the URL is none.
            PermissionDenied: the server's owner does not allow it.
            Overloaded: too many callbacks are open.
        """
        allowed = self._server.config.callbacks
        target = parse_target(url)
        if allowed.is_off:
            raise PermissionDenied("This server makes no callbacks (STOKER_CALLBACKS is off).")
        if len(self) >= OPEN_MAX:
            raise Overloaded(f"{OPEN_MAX} callbacks are open, and no more are taken now.", retry_after=60.0)
        from stoker.server.callback_requests import addresses_of  # with `ssl`; most servers need neither

        try:
            await addresses_of(target, allowed)
        except OSError:
            pass  # it may be known by the time the call has ended: that is seen then, and tried again

    async def ask(self, call_id: str, url: str, *, holder: str) -> None:
        """Have the end of a call told there; the call is made after this.

        Raises:
            StoreError: it could not be written down.
        """
        row = CallbackRow(call_id, url, holder, self._now())
        self._waiting[call_id] = row
        try:
            await self._keep(row)
        except StokerError:
            self._waiting.pop(call_id, None)
            raise

    def drop(self, call_id: str) -> None:
        """The call was refused: there is nothing to tell but what its caller knows."""
        if self._waiting.pop(call_id, None) is not None:
            server = self._server
            server.writer.job(lambda: server.store.drop_callback(server.epoch, call_id))

    def settled(self, call_ids: Iterable[str]) -> None:
        """These calls have ended, which is written down."""
        if not self._waiting:
            return
        for call_id in call_ids:
            if (row := self._waiting.pop(call_id, None)) is not None:
                self._plan(replace(row, state="due", at=self._now()))

    # What people ask

    async def of_call(self, call_id: str) -> dict[str, Any] | None:
        """Return what is known of a call's callback; None where it has none."""
        row = await asyncio.to_thread(self._server.store.callback, call_id)
        return None if row is None else self._shown(row)

    async def rows(self, *, open_only: bool, limit: int) -> list[dict[str, Any]]:
        """Return callbacks, the newest first."""
        store = self._server.store
        found = await asyncio.to_thread(lambda: store.callbacks(open_only=open_only, limit=limit))
        return [self._shown(row) for row in found]

    def _shown(self, row: CallbackRow) -> dict[str, Any]:
        row = self._due.get(row.call_id, row)
        token = self._server.client_tokens.get(row.holder)
        return {**asdict(row), "token": token.name if token is not None else row.holder}

    async def retry(self, call_id: str) -> None:
        """Have a callback tried now, with all its tries before it again.

        Raises:
            NotFound: the call has none.
            InvalidRequest: its call has not ended.
        """
        row = self._due.get(call_id) or await asyncio.to_thread(self._server.store.callback, call_id)
        if row is None:
            raise NotFound(f"The call {call_id} has no callback. `stoker callbacks list` shows those there are.")
        if call_id in self._waiting:
            raise InvalidRequest(f"The call {call_id} has not ended, so there is nothing to tell yet.")
        if self._line.is_tried(call_id):
            return
        row = replace(row, state="due", attempts=0, at=self._now())
        await self._keep(row)
        self._plan(row)

    # What is done

    async def run(self) -> None:
        """Send what is due, for as long as the server lives."""
        await self._load()
        while True:
            for call_id in self._line.take(self._now()):
                self._server.run(self._try(call_id), name=f"callback of {call_id}")
            self._wake.clear()
            at = self._line.next_at()
            try:
                async with asyncio.timeout(None if at is None else max(0.0, at - self._now())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _load(self) -> None:
        """Take up what an earlier term left. Calls may end meanwhile, and requests come: theirs are left alone."""
        server = self._server
        while True:
            try:
                rows = await asyncio.to_thread(lambda: server.store.callbacks(open_only=True, limit=OPEN_MAX))
                waiting = [row for row in rows if row.state == "waiting" and row.call_id not in self._waiting]
                self._waiting.update((row.call_id, row) for row in waiting)
                found = await asyncio.to_thread(self._records, [row.call_id for row in waiting])
                break
            except StoreError as error:
                log.error("callbacks could not be read; tried again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
        for row in rows:
            if row.state == "due":
                self._plan(row)
        for call_id, record in found.items():
            if record is None:
                self.drop(call_id)
            elif record.settled is not None:
                self.settled([call_id])

    def _records(self, call_ids: list[str]) -> dict[str, CallRecord | None]:
        return {call_id: self._server.store.call(call_id) for call_id in call_ids}

    def _plan(self, row: CallbackRow) -> None:
        self._due[row.call_id] = row
        self._line.add(row.call_id, parse_target(row.url).host, row.at)
        self._wake.set()

    async def _try(self, call_id: str) -> None:
        row = self._due[call_id]
        try:
            answer = await self._send(row)
        finally:
            self._line.ended(call_id)
            self._wake.set()
        attempts = row.attempts + 1
        verdict = judge(answer.status, attempts=attempts, jitter=random.random(), retry_after=answer.retry_after)
        at = self._now() + (verdict.wait or 0.0)
        state = "delivered" if verdict.delivered else "failed" if verdict.wait is None else "due"
        self._server.tally.callbacks["put_off" if state == "due" else state] += 1
        row = replace(row, state=state, attempts=attempts, at=at, said=answer.said)
        if row.is_over:
            del self._due[call_id]
            if not verdict.delivered:
                log.warning("the callback of call %s is given up: %s", call_id, answer.said)
        else:
            self._plan(row)
        try:
            await self._keep(row)
        except StokerError as error:
            log.error("what became of the callback of call %s could not be written down: %s", call_id, error)

    async def _send(self, row: CallbackRow) -> Answer:
        from stoker.server.callback_requests import post  # with `ssl`; see `check`

        target: Target = parse_target(row.url)
        server = self._server
        try:
            body = await asyncio.to_thread(self._message, row.call_id)
        except StokerError as error:
            return Answer(0, f"the call's record could not be read: {error}")
        if body is None:
            return Answer(410, "the record of the call is gone")
        headers = self.signer.headers(row.holder, message_id=row.call_id, timestamp=int(self._now()), body=body)
        return await post(target, server.config.callbacks, headers=headers, body=body)

    def _message(self, call_id: str) -> bytes | None:
        server = self._server
        record = server.store.call(call_id)
        if record is None or record.settled is None:
            return None
        key = record.call.function
        return message_of(record, server.functions.specs.get(key) or server.store.function(key), server.files)

    async def _keep(self, row: CallbackRow) -> None:
        server = self._server
        await server.writer.result_of(lambda: server.store.put_callback(server.epoch, row))

    def _now(self) -> float:
        return self._server.now() + self._server.wall_offset
