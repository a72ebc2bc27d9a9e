"""Streams that wait for a client that has gone: ``@stoker.endpoint(resume="60s")``.

An event's id is its call's and its number. Who comes again with the last one it has, as ``Last-Event-ID``, gets the
next ones; the function is not run again. What has been sent is kept for that, some megabytes of each stream, and its
generator goes no further ahead than it may of any reader: while nobody reads it stands still. After the time that the
endpoint states the call is cancelled. All of it is in memory: a server that is restarted knows no streams.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

from stoker.protocol.web_calls import WebAnswer
from stoker.quantities import format_duration
from stoker.server.gateway.problems import Pairs, Problem, error_body
from stoker.server.gateway.replies import encoded_pairs, send_head, send_piece
from stoker.server.gateway.routing import Route
from stoker.server.gateway.streams import end_of, error_in, is_in_events, send_last, send_without_items
from stoker.server.gateway.versions import version_of
from stoker.server.gateway.web_calls import WebCall, WebCalls

if TYPE_CHECKING:
    from stoker.protocol.encoded import Buffer
    from stoker.server.gateway.connections import Connection

KEPT_BYTES = 4 << 20  # of one stream: more than lies in sockets between a server and its client
ALL_KEPT_BYTES = 256 << 20
_EVENT_ID = re.compile(rb"(s-[0-9a-f]{32}):([0-9]{1,15})")


def new_id() -> str:
    """Return the id of a call whose stream may be resumed: who knows it may read on, so it cannot be guessed."""
    return f"s-{secrets.token_hex(16)}"


class KeptStream:
    """A stream, what was sent of it last, and who reads it now: ``reader`` is another number for each."""

    def __init__(self, call: WebCall, route: Route, holder: str, head: WebAnswer) -> None:
        self.call = call
        self.path = (route.spec.app, route.path)
        self.version = version_of(route)
        self.holder = holder
        self.wait = route.web.resume
        self.head = head
        self.first = 0  # the number of the oldest item that is kept
        self.items: deque[bytes] = deque()
        self.size = 0
        self.reader = 0
        self.taking = asyncio.Lock()  # items are taken in order, by the last reader and the next one alike
        self.timer: asyncio.TimerHandle | None = None

    @property
    def end(self) -> int:
        """Return the number of the next item to be taken."""
        return self.first + len(self.items)

    def add(self, data: Buffer) -> int:
        """Keep an item, in place of the oldest ones if need be; return by how much more is kept."""
        before = self.size
        self.items.append(bytes(data))
        self.size += len(data)
        while self.size > KEPT_BYTES:
            self.size -= len(self.items.popleft())
            self.first += 1
        return self.size - before


class Resuming:
    """See the module."""

    def __init__(self, calls: WebCalls) -> None:
        self._calls = calls
        self._kept: dict[str, KeptStream] = {}
        self._away: dict[str, KeptStream] = {}  # those that nobody reads: who has gone first stands first
        self._size = 0

    def has(self, last: bytes) -> bool:
        """Tell whether this is the id of an event of a stream that is kept."""
        found = _EVENT_ID.fullmatch(last)
        return found is not None and found[1].decode() in self._kept

    async def answer(
        self, call: WebCall, route: Route, connection: Connection, send: Any, extra: Pairs, *, holder: str
    ) -> None:
        """Answer with what a call yields; until its first item it ends with its connection, as any other."""
        lost = connection.on_lost = lambda: self._calls.cancel(call)
        head: WebAnswer | None = None
        try:
            await call.wait()
            if not call.items:
                await send_without_items(self._calls, call, send, extra)
                return
            head = await self._calls.answer_in(call.id, self._calls.take_item(call))
        finally:
            if connection.on_lost is lost:
                connection.on_lost = None
            if head is None:
                self._calls.cancel(call)  # of one that is over nothing is left to cancel
        kept = self._kept[call.id] = KeptStream(call, route, holder, head)
        self._keep(kept, head.body)
        await self._send(kept, 0, connection, send, extra)

    async def resume(
        self, last: bytes, route: Route, connection: Connection, send: Any, extra: Pairs, *, holder: str
    ) -> None:
        """Answer with what comes after an event.

        Raises:
            Problem: it is not kept, or no longer, or somebody else's.
        """
        found = _EVENT_ID.fullmatch(last)
        if found is None:
            raise Problem(
                400,
                "BadRequest",
                f"Last-Event-ID: {last.decode('latin-1')!r:.100} is no id of an event of {route.label}.",
            )
        kept = self._kept.get(found[1].decode())
        if kept is None or kept.holder != holder or kept.path != (route.spec.app, route.path):
            wait = route.web.resume if kept is None else kept.wait
            raise Problem(
                410,
                "Gone",
                f"This stream of {route.label} is not kept, or no longer: its client was away for more than "
                f"{format_duration(wait)}, or the server was restarted. Ask again without Last-Event-ID.",
            )
        at = int(found[2]) + 1
        if at > kept.end:
            raise Problem(400, "BadRequest", f"Last-Event-ID: event {at - 1} of this stream was not sent yet.")
        if at < kept.first:
            raise Problem(
                410,
                "Gone",
                f"The events up to {kept.first} of this stream are not kept any more: too much has come since.",
            )
        extra += [(b"x-stoker-call-id", kept.call.id.encode()), *kept.version]
        await self._send(kept, at, connection, send, extra)

    async def _send(self, kept: KeptStream, at: int, connection: Connection, send: Any, extra: Pairs) -> None:
        """Send what comes from an item on, as the only reader; who read it before is told that it is not any more."""
        kept.reader += 1
        mine = kept.reader
        kept.call.tell()
        self._away.pop(kept.call.id, None)
        if kept.timer is not None:
            kept.timer.cancel()
            kept.timer = None
        lost = connection.on_lost = lambda: self._left(kept, mine)
        if connection.transport.is_closing():  # it was lost before anybody could be told
            kept.reader += 1
            self._left(kept, kept.reader)
            return
        try:
            await send_head(send, kept.head.status, [*encoded_pairs(kept.head.headers), *extra])
            await self._send_items(kept, at, mine, send)
        finally:
            if connection.on_lost is lost:  # else the next request on it has come
                connection.on_lost = None
            self._left(kept, mine)

    async def _send_items(self, kept: KeptStream, at: int, mine: int, send: Any) -> None:
        in_events = is_in_events(kept.head)
        call = kept.call
        while kept.reader == mine:
            if kept.first <= at < kept.end:
                await send_piece(send, kept.items[at - kept.first])
                at += 1
            elif at < kept.first:
                said = error_body("Gone", "Too much has come meanwhile: some of it is not kept.", call_id=call.id)
                await send_last(send, error_in(said, in_events=in_events))
                return
            elif call.items:
                data = await self._take(kept, at)
                if data is not None:
                    await send_piece(send, data)
                    at += 1
            elif call.result is not None:
                await send_last(send, end_of(call, in_events=in_events))
                return
            else:
                await call.wait()
        said = error_body("Resumed", "The stream was taken up by another connection.", call_id=call.id)
        await send_last(send, error_in(said, in_events=in_events))

    async def _take(self, kept: KeptStream, at: int) -> bytes | None:
        """Take the next item; None where somebody else has taken it meanwhile."""
        async with kept.taking:
            if at != kept.end or not kept.call.items:
                return None
            data = bytes(await self._calls.bytes_of(self._calls.take_item(kept.call)) or b"")
            self._keep(kept, data)
        kept.call.tell()  # a reader that came meanwhile waits for it
        return data

    def _keep(self, kept: KeptStream, data: Buffer) -> None:
        self._size += kept.add(data)
        while self._size > ALL_KEPT_BYTES and self._away:
            self._forget(next(iter(self._away.values())))

    def _left(self, kept: KeptStream, reader: int) -> None:
        """A client has gone, or has all: it may come again for a while."""
        if kept.reader != reader or kept.call.id not in self._kept:
            return
        kept.reader += 1
        kept.call.tell()
        self._away[kept.call.id] = kept
        kept.timer = asyncio.get_running_loop().call_later(kept.wait, self._forget, kept)

    def _forget(self, kept: KeptStream) -> None:
        del self._kept[kept.call.id], self._away[kept.call.id]
        self._size -= kept.size
        if kept.timer is not None:
            kept.timer.cancel()
        self._calls.cancel(kept.call)
        self._calls.discard_result(kept.call)
