"""The agent's connection to its server: one at a time, for as long as a server comes back within the grace."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from stoker._version import __version__
from stoker.errors import ConnectionFailed, StokerError, from_wire
from stoker.protocol.frames import FrameReader, encode_prefix
from stoker.protocol.messages import Hello, Rejected, Welcome
from stoker.protocol.structure import decode_header, encode_header

RETRY_FIRST_SECONDS = 0.02
RETRY_LAST_SECONDS = 0.5
READ_BYTES = 256 << 10
SLOW_BYTES = 4 << 20  # of what the server has not read yet: past it, output waits in its files
log = logging.getLogger("stoker.agent")


class Peer(Protocol):
    """What the link tells its owner, in this order for each connection: connected, messages, disconnected."""

    def on_connected(self, welcome: Welcome) -> None: ...

    def on_message(self, message: Any) -> None: ...

    def on_disconnected(self) -> None: ...


class ServerLink:
    """See the module."""

    def __init__(self, path: Path, *, node: str, patience: float, term: Callable[[], int], peer: Peer) -> None:
        """``term`` tells the highest term that was obeyed: a server of a lower one is left at once."""
        self._path = path
        self._node = node
        self._patience = patience
        self._term = term
        self._peer = peer
        self._writer: asyncio.StreamWriter | None = None

    @property
    def connected(self) -> bool:
        return self._writer is not None

    @property
    def slow(self) -> bool:
        """Tell whether the server is behind with reading."""
        return self._writer is not None and self._writer.transport.get_write_buffer_size() > SLOW_BYTES

    def send(self, message: Any) -> None:
        """Send a message; without a connection it is lost, which `Peer.on_disconnected` has told."""
        if self._writer is not None:
            kind, header = encode_header(message)
            self._writer.write(encode_prefix(kind, len(header), 0) + header)

    async def drained(self) -> None:
        """Return when the server's socket has taken what was sent."""
        if self._writer is not None:
            try:
                await self._writer.drain()
            except ConnectionError:
                pass  # the reading side tells

    async def run(self) -> None:
        """Connect, serve, connect again; returns when no server was there for the whole patience."""
        lost_at = time.monotonic()
        delay = RETRY_FIRST_SECONDS
        while time.monotonic() - lost_at < self._patience:
            try:
                await self._serve()
                lost_at, delay = time.monotonic(), RETRY_FIRST_SECONDS
            except (OSError, StokerError) as error:
                log.debug("no server at %s: %s", self._path, error)
            await asyncio.sleep(delay)
            delay = min(RETRY_LAST_SECONDS, delay * 1.5)

    async def _serve(self) -> None:
        """Serve one connection to its end. Raises when there was no connection, or no welcome."""
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            frames = FrameReader()
            messages = await self._greet(reader, writer, frames)
            welcome = messages.pop(0)
            self._writer = writer
            self._peer.on_connected(welcome)
            for message in messages:
                self._peer.on_message(message)
            await self._read(reader, frames)
        finally:
            if self._writer is not None:
                self._writer = None
                self._peer.on_disconnected()
            writer.close()

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: FrameReader
    ) -> list[Any]:
        hello = Hello("agent", self._node, __version__, pid=os.getpid(), term=self._term())
        kind, header = encode_header(hello)
        writer.write(encode_prefix(kind, len(header), 0) + header)
        messages: list[Any] = []
        while not messages:
            data = await reader.read(READ_BYTES)
            if not data:
                raise ConnectionFailed("The server closed the connection before it answered.")
            messages = [decode_header(frame.kind, frame.header) for frame in frames.feed(data)]
        first = messages[0]
        if isinstance(first, Rejected):
            raise from_wire(first.type_name, first.message, first.fields)
        if not isinstance(first, Welcome) or first.term < self._term():
            raise ConnectionFailed(f"The server's term is over: {first!r}.")
        return messages

    async def _read(self, reader: asyncio.StreamReader, frames: FrameReader) -> None:
        try:
            while data := await reader.read(READ_BYTES):
                for frame in frames.feed(data):
                    self._peer.on_message(decode_header(frame.kind, frame.header))
        except (OSError, StokerError) as error:
            log.warning("the link to the server broke: %s", error)
