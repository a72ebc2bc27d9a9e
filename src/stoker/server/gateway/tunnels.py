"""Connections that were upgraded for a server of a function's own: bytes both ways, none of which is looked at."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from stoker.server.gateway.unread import Unread

WAITING_BYTES = 256 << 10  # that have come and were not read: past it nothing more is taken from the client


class Tunnel(asyncio.Protocol):
    """See the module. It takes the transport over once the head of the request has come."""

    def __init__(self, transport: asyncio.Transport, connections: set[Any]) -> None:
        self.transport = transport
        self._connections = connections
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_over = False
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._unread = Unread()
        self._is_lost = False
        self._on_lost: Callable[[], None] | None = None
        connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > WAITING_BYTES:
            self.transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        self._is_over = True
        self._news.set()
        return self.transport.get_extra_info("sslcontext") is None  # what is still being answered may go out

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._is_over = True
        self._news.set()
        self._writable.set()
        self._is_lost = True
        if self._on_lost is not None:
            self._on_lost()

    def pause_writing(self) -> None:
        self._unread.is_full(asyncio.get_running_loop().time())
        self._writable.clear()

    def resume_writing(self) -> None:
        self._unread.has_room()
        self._writable.set()

    def check(self, now: float) -> None:
        """Disconnect a client that reads nothing."""
        self._unread.check(self.transport, now)

    def shutdown(self) -> None:
        """End it, since the server stops."""
        self.transport.close()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have something done once the client has gone, which is more than that it says no more; at once if it has."""
        self._on_lost = call
        if self._is_lost:
            call()

    async def read(self) -> bytes:
        """Return what has come next; nothing once the client has ended."""
        while not self._pieces:
            if self._is_over:
                return b""
            self._news.clear()
            await self._news.wait()
        data = self._pieces.popleft()
        self._waiting_bytes -= len(data)
        if self._waiting_bytes <= WAITING_BYTES and not self._is_over:
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send some bytes, and return when there is room for more."""
        if not self.transport.is_closing():
            self.transport.write(data)
            await self._writable.wait()
