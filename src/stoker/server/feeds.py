"""The feeds of calls that are being sent something, and their way to the workers that ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from stoker.core.feeds import Feed, Reader
from stoker.protocol.input_messages import AskInputs, Inputs
from stoker.server.link import Link
from stoker.types import InputEnd

if TYPE_CHECKING:
    from stoker.server.server import Server


class CallFeed:
    """One call's feed: its client's side waits for room, and what is added goes to who reads."""

    def __init__(self, call_id: str, flush_soon: Callable[[], None]) -> None:
        self.id = call_id
        self.feed = Feed()
        self._flush_soon = flush_soon
        self._link: Link | None = None
        self._room: asyncio.Future[None] | None = None

    async def wait_for_room(self) -> None:
        """Return when more may be added."""
        while not self.feed.has_room:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def add(self, piece: bytes) -> None:
        self.feed.add(piece)
        self._pass_on()

    def end(self, why: InputEnd) -> None:
        self.feed.end(why)
        self._pass_on()

    def asked(self, message: AskInputs, link: Link) -> None:
        if not self.feed.ask(Reader(message.attempt, id(link)), had=message.had, upto=message.upto):
            link.send(Inputs(message.id, message.attempt, end=int(InputEnd.LOST)), [])
            return
        self._link = link
        self._pass_on()

    def _pass_on(self) -> None:
        found = self.feed.take()
        if found is None or self.feed.reader is None or self._link is None:
            return
        pieces, end = found
        sizes = [len(piece) for piece in pieces]
        self._link.send(Inputs(self.id, self.feed.reader.attempt, sizes, int(end)), pieces)
        self._flush_soon()
        if self._room is not None and not self._room.done() and self.feed.has_room:
            self._room.set_result(None)


class Feeds:
    """See the module."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._open: dict[str, CallFeed] = {}
        self._is_flush_due = False

    def open(self, call_id: str) -> CallFeed:
        feed = self._open[call_id] = CallFeed(call_id, self._flush_soon)
        return feed

    def close(self, call_id: str) -> None:
        self._open.pop(call_id, None)

    def asked(self, worker: str, message: AskInputs, link: Link) -> None:
        """Take what a worker says of a call that it runs; of others' calls it is told nothing."""
        call = self._server.plane.state.calls.get(message.id)
        if call is not None and (call.worker is None or call.worker.id != worker or call.attempt != message.attempt):
            return
        feed = self._open.get(message.id) if call is not None else None
        if feed is None:  # it is over, or was an earlier server's: the app is not to wait for more
            link.send(Inputs(message.id, message.attempt, end=int(InputEnd.LOST)), [])
        else:
            feed.asked(message, link)

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self._server.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        self._server.flush()
