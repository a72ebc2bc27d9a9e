"""The bridge between the reader's thread and an event loop: many results, one wake-up; many calls, one frame."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

from stoker.client.calls import Pending, Route, Settled
from stoker.client.session import Session
from stoker.protocol.frames import Buffer


class Mailbox:
    """One loop's incoming results and outgoing calls."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._incoming: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._scheduled = False
        self._outgoing: dict[tuple[Session, Route], list[Pending]] = {}

    def deliver(self, future: asyncio.Future[Any], value: Any) -> None:
        """Set a future's result on its loop; safe from any thread."""
        self._incoming.append((future, value))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:
                self._incoming.clear()  # the loop was closed: nobody waits there any more

    def submit(self, session: Session, pending: Pending) -> None:
        """Send a call, together with those that the same turn of the loop makes."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.setdefault((session, pending.route), []).append(pending)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for (session, _), pendings in outgoing.items():
            if session.reader.failure is None:
                session.connection.submit(pendings)
                session.reader.want_background()
            else:
                session.connection.calls.add(pendings)
                session.connection.fail_all(session.reader.failure)

    def _drain(self) -> None:
        self._scheduled = False
        while self._incoming:
            future, value = self._incoming.popleft()
            if not future.done():
                future.set_result(value)


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()


def mailbox() -> Mailbox:
    """Return the running loop's mailbox."""
    loop = asyncio.get_running_loop()
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = Mailbox(loop)
    return found


class LoopSlot:
    """The sink of one attached call that a coroutine awaits."""

    __slots__ = ("_mailbox", "future")

    def __init__(self, box: Mailbox) -> None:
        self._mailbox = box
        self.future: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()

    def settle(self, pending: Pending, settled: Settled) -> None:
        self._mailbox.deliver(self.future, settled)

    def accept(self, pending: Pending) -> None:
        return None

    def items(self, pending: Pending, first: int, parts: list[Buffer]) -> None:
        return None


class LoopBell:
    """Lets one coroutine wait for news that come on another thread."""

    def __init__(self) -> None:
        self._mailbox = mailbox()
        self._future: asyncio.Future[None] | None = None

    def arm(self) -> asyncio.Future[None]:
        """Return a future that the next `ring` ends; look at the state between arming and awaiting."""
        self._future = asyncio.get_running_loop().create_future()
        return self._future

    def ring(self) -> None:
        future, self._future = self._future, None
        if future is not None:
            self._mailbox.deliver(future, None)
