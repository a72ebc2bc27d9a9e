"""An agent's data connections to a server on another machine: what is fetched there, checked, into files of this node.

Each transfer has a connection to itself, of a few that are kept; so many run at once, and a small one never waits
behind a big one's bytes. Everything here blocks, and is called in threads.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections.abc import Callable
from typing import TypeVar

from stoker.engine.local.config import FINGERPRINT_VARIABLE, AgentConfig
from stoker.errors import ConnectionFailed, ProtocolError, StokerError, StoreUnavailable, from_wire
from stoker.protocol.data_messages import AgreedLock, AgreeLock, Fetch, Fetched, FetchFailed
from stoker.protocol.frames import Buffer
from stoker.protocol.messages import Part, Welcome
from stoker.protocol.parts import check_part
from stoker.transport.addresses import Address, parse_address
from stoker.transport.sockets import FrameSocket, Received, greet
from stoker.transport.tcp import connect_tcp
from stoker.transport.tls import Trust, parse_fingerprint

LINKS_MAX = 4  # transfers at once: more share the same network, and take of the server's turns from others
GREETING_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # without a byte of a transfer that runs: as long as a dead peer stays unnoticed
RETRY_SECONDS = 0.1
AGREE_SECONDS = 60.0  # for which a server that is away is tried: the start of a worker waits as long
TRIES = 3  # of what arrives damaged
log = logging.getLogger("stoker.agent")
T = TypeVar("T")

Announced = Callable[[int], None]
"""Told the size of what comes before its first byte is written, to make room for it; may raise."""


class Refused(Exception):
    """The server answered that it cannot: nothing is wrong with the connection."""

    def __init__(self, error: StokerError) -> None:
        super().__init__(str(error))
        self.error = error


class DataLinks:
    """See the module."""

    def __init__(self, server: Address, *, node: str, token: str, trust: Trust | None = None) -> None:
        self.node = node
        self._server = server
        self._token = token
        self._trust = trust
        self._room = threading.BoundedSemaphore(LINKS_MAX)
        self._lock = threading.Lock()
        self._idle: list[FrameSocket] = []
        self._busy: set[FrameSocket] = set()
        self._closed = False

    @classmethod
    def of(cls, config: AgentConfig) -> DataLinks:
        """Return the connections of the agent that is configured so.

        Raises:
            InvalidOption: the server's address or fingerprint is none.
        """
        pinned = parse_fingerprint(config.fingerprint, option=FINGERPRINT_VARIABLE) if config.fingerprint else ""
        address = parse_address(config.server, option="--server")
        return cls(address, node=config.node, token=config.token, trust=Trust(pinned) if pinned else None)

    def fetch(self, kind: str, name: str, file: int, *, announced: Announced, patience: float) -> int:
        """Fill an open file that is empty; return the size. What comes damaged is asked for again.

        Raises:
            NotFound: the server has it not.
            ConnectionFailed: there was no server for so many seconds.
            StokerError: it arrived damaged each time, or the server cannot read it.
            OSError: the file could not be written.
        """
        for _ in range(TRIES):
            size, here, there = self._patiently(lambda link: _into(link, kind, name, file, announced), patience)
            if here == there:
                return size
            log.warning("%s %s arrived damaged: %s here, %s at the server", kind, name, here, there)
        raise StokerError(
            f"The {kind} {name} of {size} bytes arrived damaged at node {self.node} {TRIES} times: its digest is "
            f"{here} here, the server read {there}. Something on the way, or a machine's memory, changes bytes: look "
            "at the network between the two."
        )

    def size(self, name: str, *, patience: float) -> int:
        """Return the size of a blob; raises as `fetch`."""
        return self._patiently(lambda link: _size(link, name), patience)

    def agree(self, name: str, text: str) -> str:
        """Return the lock that all nodes go by, proposing ``text`` where there is none; see `stoker.images.agreeing`.

        Raises:
            StoreUnavailable: there was no server for `AGREE_SECONDS`.
            StokerError: the server cannot keep it.
        """
        try:
            return self._patiently(lambda link: _agreed(link, name, text), AGREE_SECONDS)
        except ConnectionFailed as error:
            raise StoreUnavailable(str(error)) from error

    def listen(self) -> tuple[FrameSocket, Welcome]:
        """Return a new connection, for its owner to read from and to `release`.

        Raises:
            ConnectionFailed: no server answers, or this is closed.
            StokerError: it does not let us in.
        """
        link, welcome = self._connect()
        link.settimeout(None)
        return link, welcome

    def release(self, link: FrameSocket) -> None:
        """Close a connection that is used no more."""
        with self._lock:
            self._busy.discard(link)
        link.close()

    def close(self) -> None:
        """End every transfer, and begin no other."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for link in idle:
            link.close()
        for link in busy:
            link.shutdown()  # whoever uses it closes it

    def _patiently(self, work: Callable[[FrameSocket], T], patience: float) -> T:
        give_up = time.monotonic() + patience
        while True:
            try:
                return self._once(work)
            except (ConnectionFailed, TimeoutError) as error:
                if self._closed or time.monotonic() >= give_up:
                    raise ConnectionFailed(f"Node {self.node} can fetch nothing from its server: {error}") from error
            time.sleep(RETRY_SECONDS)

    def _once(self, work: Callable[[FrameSocket], T]) -> T:
        with self._room:
            link = self._take()
            try:
                found = work(link)
            except Refused as refused:
                self._give_back(link)
                raise refused.error from None
            except (OSError, StokerError) as error:
                self.release(link)
                if isinstance(error, ConnectionFailed):
                    self._drop_idle()  # those that were made with it are no better
                raise
            self._give_back(link)
            return found

    def _take(self) -> FrameSocket:
        with self._lock:
            if self._idle:
                link = self._idle.pop()
                self._busy.add(link)
                return link
        return self._connect()[0]

    def _give_back(self, link: FrameSocket) -> None:
        with self._lock:
            self._busy.discard(link)
            if not self._closed:
                self._idle.append(link)
                return
        link.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def _connect(self) -> tuple[FrameSocket, Welcome]:
        link = connect_tcp(self._server, self._trust, timeout=GREETING_SECONDS, in_parts=False)
        try:
            welcome = greet(link, role="node", name=self.node, token=self._token)
            link.settimeout(SILENCE_SECONDS)
            with self._lock:
                if self._closed:
                    raise ConnectionFailed("This agent is ending.")
                self._busy.add(link)
        except (OSError, StokerError):
            link.close()
            raise
        return link, welcome


def _answer(link: FrameSocket) -> Received:
    received = link.receive()
    message = received.message
    if isinstance(message, FetchFailed):
        raise Refused(from_wire(message.type_name, message.message, message.fields))
    return received


def _into(link: FrameSocket, kind: str, name: str, file: int, announced: Announced) -> tuple[int, str, str]:
    """Return the size, the digest of what came, and that of what was sent."""
    os.ftruncate(file, 0)
    link.send(Fetch(kind, name))
    at = digest = 0
    while True:
        message, body = _answer(link)
        if isinstance(message, Fetched):
            # One that is shorter than was said is damaged too: its digest tells.
            return at, f"{digest:08x}", message.digest
        if not isinstance(message, Part):
            raise ProtocolError(f"The server sent a {type(message).__name__} in place of the {kind} {name}.")
        if not at:
            announced(message.size)
        check_part(message.size, at=at, length=len(body))
        _write(file, body, at)
        digest = zlib.crc32(body, digest)
        at += len(body)


def _size(link: FrameSocket, name: str) -> int:
    link.send(Fetch("blob_size", name))
    message = _answer(link).message
    if not isinstance(message, Fetched):
        raise ProtocolError(f"The server sent a {type(message).__name__} in place of the size of {name}.")
    return message.size


def _agreed(link: FrameSocket, name: str, text: str) -> str:
    link.send(AgreeLock(name, text))
    message = _answer(link).message
    if not isinstance(message, AgreedLock):
        raise ProtocolError(f"The server sent a {type(message).__name__} in place of the lock {name}.")
    return message.text


def _write(file: int, body: Buffer, at: int) -> None:
    view = memoryview(body)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
