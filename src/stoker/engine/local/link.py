"""The agent's connection to its server: one at a time, for as long as a server comes back within the grace."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stoker._version import __version__
from stoker.engine.local.config import FINGERPRINT_VARIABLE, AgentConfig
from stoker.errors import ConnectionFailed, StokerError, from_wire
from stoker.protocol.frames import FrameReader, encode_prefix
from stoker.protocol.messages import Hello, Rejected, Welcome
from stoker.protocol.structure import decode_header, encode_header
from stoker.transport.addresses import Address, is_loopback, parse_address
from stoker.transport.tcp import tune
from stoker.transport.tls import parse_fingerprint

CONNECT_SECONDS = 10.0  # for the network, and again for TLS
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


class Place(Protocol):
    """Where the server is."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect.

        Raises:
            OSError: nobody listens there.
            StokerError: it is not the server that is trusted.
        """


@dataclass(frozen=True)
class SocketPlace:
    """A server on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))


@dataclass(frozen=True)
class TcpPlace:
    """A server elsewhere: with TLS, but on loopback, where a fingerprint asks for it."""

    address: Address
    fingerprint: str = ""

    def __str__(self) -> str:
        return str(self.address)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        from stoker.transport.tls import Trust

        trust = Trust(self.fingerprint)
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(*self.address)
        tune(writer.get_extra_info("socket"))
        if self.fingerprint or not is_loopback(writer.get_extra_info("peername")[0]):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await writer.start_tls(trust.context(), server_hostname=self.address.host)
                trust.check(writer.get_extra_info("ssl_object").getpeercert(True), where=str(self.address))
            except BaseException:
                writer.transport.abort()
                raise
        return reader, writer


def place_of(config: AgentConfig) -> Place:
    """Return where the server of an agent is.

    Raises:
        InvalidOption: its address is none.
    """
    if not config.is_remote:
        return SocketPlace(config.server_socket)
    fingerprint = parse_fingerprint(config.fingerprint, option=FINGERPRINT_VARIABLE) if config.fingerprint else ""
    return TcpPlace(parse_address(config.server, option="--server"), fingerprint)


class ServerLink:
    """See the module."""

    def __init__(
        self, place: Place, *, node: str, token: str, patience: float, term: Callable[[], int], peer: Peer
    ) -> None:
        """``term`` tells the highest term that was obeyed: a server of a lower one is left at once."""
        self._place = place
        self._token = token
        self._node = node
        self._patience = patience
        self._term = term
        self._peer = peer
        self._refused = ""
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
                self._tell_why(error)
            await asyncio.sleep(delay)
            delay = min(RETRY_LAST_SECONDS, delay * 1.5)

    async def _serve(self) -> None:
        """Serve one connection to its end. Raises when there was no connection, or no welcome."""
        reader, writer = await self._place.connect()
        try:
            frames = FrameReader()
            messages = await self._greet(reader, writer, frames)
            welcome = messages.pop(0)
            self._writer = writer
            self._refused = ""
            self._peer.on_connected(welcome)
            for message in messages:
                self._peer.on_message(message)
            await self._read(reader, frames)
        finally:
            if self._writer is not None:
                self._writer = None
                self._peer.on_disconnected()
            writer.close()

    def _tell_why(self, error: Exception) -> None:
        """Write down why there is no connection: once for each reason."""
        reason = str(error)
        if reason != self._refused:
            self._refused = reason
            log.log(logging.WARNING if self._token else logging.DEBUG, "no server at %s: %s", self._place, reason)

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: FrameReader
    ) -> list[Any]:
        hello = Hello("agent", self._node, __version__, token=self._token, pid=os.getpid(), term=self._term())
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
