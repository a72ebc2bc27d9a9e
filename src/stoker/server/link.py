"""One connection of the server: bytes to messages, messages to bytes. Its greeting decides who is at the other end."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Sequence
from typing import Any, Protocol, cast

from stoker.errors import ProtocolError, StokerError
from stoker.protocol.frames import BODY_MAX_BYTES, GREETING_MAX_BYTES, Buffer, FrameReader
from stoker.protocol.messages import KIND_OF, KINDS, Hello, Rejected
from stoker.server import wire
from stoker.store.base import StoreUnavailable

log = logging.getLogger(__name__)

GREETING_SECONDS = 10.0  # for a peer to say who it is
CLOSING_SECONDS = 1.0  # for peers to read what they were sent last; one that was stopped (Ctrl-Z) never would
_HELLO = KIND_OF[Hello]
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of the peer


class Peer(Protocol):
    """What a role makes of its messages."""

    def received(self, message: Any, body: memoryview) -> None:
        """Deal with one message; a `ProtocolError` closes the link."""

    def closed(self) -> None:
        """The link is gone."""


class Greeter(Protocol):
    """What the server does with greetings, and after each chunk of messages."""

    def greeted(self, link: Link, hello: Hello) -> Peer:
        """Admit a peer and answer it, or raise the `StokerError` that it is rejected with."""

    unsent: list[Link]
    """The links that were sent something since the last `flush`."""

    def flush(self) -> None:
        """Have what was decided for the messages so far carried out, and what was sent written."""


class Link(asyncio.Protocol):
    """See the module. What is sent is gathered until `flush`, then written at once."""

    stranger_max_bytes = GREETING_MAX_BYTES
    body_max_bytes = BODY_MAX_BYTES

    def __init__(self, greeter: Greeter, links: set[Link]) -> None:
        self._greeter = greeter
        self._links = links
        self._reader = FrameReader(limit=self.stranger_max_bytes)
        self._transport: asyncio.Transport | None = None
        self._peer: Peer | None = None
        self._out: list[Buffer] = []
        self._deadline: asyncio.TimerHandle | None = None
        self.held_back = True  # not read from while it does not read; see `pause_writing`
        self.uid = -1
        self.pid = 0
        self.is_remote = False  # it came through a door that wants a token
        self.holder = ""  # the id of the token that it was let in with

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._links.add(self)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            self.pid, self.uid, _ = _CREDENTIALS.unpack(raw)
        self._deadline = asyncio.get_running_loop().call_later(GREETING_SECONDS, self.close)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, header, body in self._reader.feed(data):
                if self._is_closing:
                    break
                if self._peer is None and kind != _HELLO:
                    name = KINDS[kind].__name__ if kind in KINDS else f"of kind {kind}"
                    raise ProtocolError(f"The first message was {name}, not a greeting.")
                self._frame(wire.decode(kind, header), cast(memoryview, body))
        except ProtocolError as error:
            log.warning("closing a connection of %s: %s", self.origin, error)
            self.reject(error)
        except StoreUnavailable as error:
            # What was being read stays unanswered: the peer connects again and says it again.
            log.warning("closing a connection of pid %s: %s", self.pid, error)
            self.close()
        self._greeter.flush()

    @property
    def origin(self) -> str:
        """Who is at the other end, for the log."""
        return f"pid {self.pid}"

    @property
    def _is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _frame(self, message: Any, body: memoryview) -> None:
        if self._peer is None:
            self._greet(message)
        else:
            self._peer.received(message, body)

    def _greet(self, hello: Hello) -> None:
        try:
            self._peer = self._greeter.greeted(self, hello)
        except StokerError as error:
            self.reject(error)
            return
        self._reader.limit = self.body_max_bytes
        if self._deadline is not None:
            self._deadline.cancel()

    def send(self, message: Any, parts: Sequence[Buffer] = ()) -> None:
        """Queue a message for the next `flush`; to a peer that is gone it is dropped."""
        if self._transport is None:
            return
        if not self._out:
            self._greeter.unsent.append(self)
        self._out.extend(wire.encode(message, parts))

    def flush(self) -> None:
        """Write what was sent since the last time."""
        out, self._out = self._out, []
        if self._transport is None or self._transport.is_closing() or not out:
            return
        if len(out) == 1:
            self._transport.write(out[0])
        else:
            self._transport.writelines(out)

    def reject(self, error: StokerError) -> None:
        """Tell the peer why, and close."""
        self.send(Rejected(type(error).__name__, str(error), error.fields))
        self.flush()
        self.close()

    def close(self) -> None:
        """Close once all that was sent is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """Take nothing more from a peer that does not read what it is sent.

        A worker reads and writes in one thread: while it sends a big result it does not read its big lease, so it is
        not ``held_back``, or both ends would wait for ever. What it is sent is bounded by what it is leased.
        """
        if self.held_back and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.held_back and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._links.discard(self)
        self._transport = None
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.closed()
            self._greeter.flush()


async def close_all(links: set[Link]) -> None:
    """Close links, and return when they are closed: a loop does not end with bytes that nobody reads."""
    for link in list(links):
        link.flush()
        link.close()
    give_up = asyncio.get_running_loop().time() + CLOSING_SECONDS
    pause = 0.0
    while links and asyncio.get_running_loop().time() < give_up:
        await asyncio.sleep(pause)
        pause = 0.005
    for link in list(links):
        link.abort()
    while links:
        await asyncio.sleep(0)
