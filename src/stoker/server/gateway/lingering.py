"""The end of a connection whose client still sends: what comes is read and dropped until it has read its answer.

A socket that is closed with input unread resets the connection, and what was written last is lost with it: of an upload
that is refused for its size, the client would see no 413. So its side is closed first (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
from typing import Any

from stoker.server.gateway.unread import READ_SECONDS

LINGER_SECONDS = 2.0
LINGER_BYTES = 64 << 20  # that a client which does not listen may send meanwhile


class Lingering(asyncio.Protocol):
    """See the module. It is among ``connections``, whose sweep ends it."""

    def __init__(self, transport: asyncio.Transport, connections: set[Any], *, now: float) -> None:
        self.transport = transport
        self._connections = connections
        self._until = now + LINGER_SECONDS
        self._left = LINGER_BYTES
        transport.set_protocol(self)
        connections.add(self)
        if transport.get_extra_info("sslcontext") is None:  # TLS cannot be half closed
            transport.write_eof()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def shutdown(self) -> None:
        """Close: the server stops."""
        self.transport.close()

    def check(self, now: float) -> None:
        """Close once the time is over; who reads slowly has the time of an answer."""
        if now > self._until and not self.transport.get_write_buffer_size():
            self.transport.abort() if self.transport.is_closing() else self.transport.close()
        elif now > self._until + READ_SECONDS:
            self.transport.abort()
