"""A connection over TCP: nothing of it is believed before its token was seen, and no memory is shared with it.

Its first byte tells TLS from frames in clear. Before the greeting only a small frame is read, and of one kind. Big
bodies come and go in parts: in, they are gathered in a file; out, files are read piece by piece, as the peer takes
them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from stoker.errors import PermissionDenied, ProtocolError, StokerError
from stoker.protocol import messages as m
from stoker.protocol.frames import Buffer
from stoker.protocol.parts import pieces
from stoker.server import wire
from stoker.server.link import Greeter, Link
from stoker.server.spool import FileBody, Spool
from stoker.transport.tls import HANDSHAKE_RECORD, TlsStream

if TYPE_CHECKING:
    from stoker.server.doors import TcpDoor

log = logging.getLogger(__name__)

STRANGER_MAX_BYTES = 8 << 10  # a greeting has some hundred bytes
REMOTE_BODY_MAX_BYTES = 16 << 20  # above a client's batch (8 MiB): what is bigger comes in parts
WRITE_BYTES = 64 << 10  # gathered for one write: small frames go together
TURN_BYTES = 4 << 20  # written for one peer before others have their turn
UNREAD_MAX_BYTES = 64 << 20  # of answers and news for a peer that does not read
BUFFER_BYTES = 1 << 20  # that the loop keeps for a peer which reads slowly


class RemotePeer(Protocol):
    """What a role makes of messages whose body came in parts; see `stoker.server.link.Peer`."""

    def received_in_parts(self, message: Any, spool: Spool) -> None: ...


class RemoteLink(Link):
    """See the module."""

    stranger_max_bytes = STRANGER_MAX_BYTES
    body_max_bytes = REMOTE_BODY_MAX_BYTES

    def __init__(self, greeter: Greeter, links: set[Link], door: TcpDoor) -> None:
        super().__init__(greeter, links)
        self.is_remote = True
        self._door = door
        self._address = "an address that is gone"
        self._name = ""
        self._is_new = True
        self._tls: TlsStream | None = None
        self._queue: deque[Iterator[Buffer]] = deque()
        self._unread = 0  # bytes in the queue that nobody else holds: answers and news
        self._blocked = False
        self._turns: asyncio.Handle | None = None
        self._spool: Spool | None = None

    @property
    def origin(self) -> str:
        return self._address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if peer := transport.get_extra_info("peername"):
            self._address = f"{peer[0]} port {peer[1]}"
        cast(asyncio.Transport, transport).set_write_buffer_limits(BUFFER_BYTES)
        self._door.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.left(self)
        self._queue.clear()
        if self._turns is not None:
            self._turns.cancel()
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        super().connection_lost(exc)

    # What comes

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._is_new:
            self._is_new = False
            if self._door.certificate is not None:
                if data[0] != HANDSHAKE_RECORD:
                    self._turn_away()
                    return
                self._tls = TlsStream(self._door.certificate.context, server_side=True)
        if self._tls is not None:
            data = self._opened(self._tls, data)
        if data:
            super().data_received(data)

    def _turn_away(self) -> None:
        log.warning("closing a connection of %s: it does not speak TLS", self.origin)
        self.reject(
            PermissionDenied(
                "This door speaks TLS only. Give the fingerprint of its certificate, which `stoker server status` "
                "shows on its machine (--fingerprint, STOKER_FINGERPRINT), or the file of the CA that vouches for it "
                "(--ca, STOKER_CA)."
            )
        )

    def _opened(self, tls: TlsStream, data: bytes) -> bytes:
        try:
            return tls.feed(data)
        except ssl.SSLError as error:
            log.warning("closing a connection of %s: no TLS with it: %s", self.origin, error.reason or error)
            self.close()
            return b""
        finally:
            said = tls.outgoing()
            if said and self._transport is not None:
                self._transport.write(said)

    def _greet(self, hello: m.Hello) -> None:
        try:
            self._door.admit(self, hello)
        except StokerError as error:
            log.warning("closing a connection of %s: %s", self.origin, error)
            self.reject(error)
            return
        self._name = hello.name
        super()._greet(hello)
        if self._peer is not None:
            self._door.known(self)

    def _frame(self, message: Any, body: memoryview) -> None:
        if self._peer is not None and isinstance(message, m.Part):
            if not hasattr(self._peer, "received_in_parts"):
                raise ProtocolError("Nothing big is sent on this connection.")
            if self._spool is None:
                self._spool = Spool(self._door.files, self._name, size=message.size)
            self._spool.add(message.size, body)
        elif self._peer is not None and self._spool is not None:
            self._spool.complete(body)
            spool, self._spool = self._spool, None
            cast(RemotePeer, self._peer).received_in_parts(message, spool)
        else:
            super()._frame(message, body)

    # What goes

    def send(self, message: Any, parts: Sequence[Any] = ()) -> None:
        if self._transport is None:
            return
        if not self._queue:
            self._greeter.unsent.append(self)
        if not parts:
            frame = wire.encode(message)
            self._unread += len(frame[0])
            self._queue.append(iter(frame))
            self._hold_back()
            return
        in_files = any(isinstance(part, FileBody) for part in parts)
        self._queue.append(_in_parts(message, parts) if in_files else iter(wire.encode(message, parts)))

    def stream(self, buffers: Iterator[Buffer]) -> None:
        """Send frames that are made as the peer takes them; see `send`."""
        if self._transport is None:
            return
        if not self._queue:
            self._greeter.unsent.append(self)
        self._queue.append(buffers)

    def flush(self) -> None:
        """Write as much of what was sent as the peer takes now; the rest follows as it reads."""
        if self._turns is None:
            self._pump()

    def _pump(self) -> None:
        self._turns = None
        left = TURN_BYTES
        try:
            while self._queue and not self._blocked and not self._is_closing:
                data = self._gather()
                left -= len(data)
                assert self._transport is not None
                self._transport.write(self._tls.seal(data) if self._tls is not None and data else data)
                if left <= 0:
                    self._turns = asyncio.get_running_loop().call_soon(self._pump)
                    return
        except OSError as error:  # half of a body is out: nothing can follow it
            log.error("closing a connection of %s: a payload's file could not be read: %s", self.origin, error)
            self.abort()

    def _gather(self) -> bytes:
        found: list[Buffer] = []
        size = 0
        while self._queue and size < WRITE_BYTES:
            buffer = next(self._queue[0], None)
            if buffer is None:
                self._queue.popleft()
                self._unread = self._unread if self._queue else 0
            else:
                found.append(buffer)
                size += len(buffer)
        return b"".join(found)

    def pause_writing(self) -> None:
        """Write no more for now. The peer is read on: it may be busy sending, and read only when it is done.

        Both would wait for ever else. What it is owed is held elsewhere, or in files; only when its unread answers
        pile up it is held back.
        """
        self._blocked = True
        self._hold_back()

    def resume_writing(self) -> None:
        self._blocked = False
        super().resume_writing()
        self.flush()

    def _hold_back(self) -> None:
        if self._blocked and self._unread > UNREAD_MAX_BYTES:
            super().pause_writing()


def _in_parts(message: Any, parts: Sequence[Any]) -> Iterator[Buffer]:
    """Yield the frames of a message with its body in parts before it."""
    told = m.Part(sum(map(len, parts)))
    for part in parts:
        for piece in part.pieces() if isinstance(part, FileBody) else pieces([part]):
            yield from wire.encode(told, [piece])
    yield from wire.encode(message)
