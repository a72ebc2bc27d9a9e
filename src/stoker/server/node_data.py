"""What nodes on other machines are sent over data connections of their own: payloads' files and blobs.

A node asks for one thing at a time on a connection, and has several. Files are read piece by piece as they are sent;
blobs, which may lie on a disk or elsewhere, are opened and read once in a thread before that.

The digest that ends each is the CRC-32 of the bytes as they were read here. It is there to find bytes that changed on
the way or in a file, not somebody who means ill: that is what TLS is for. Of what the standard library has it costs
the loop least by far (per piece of 256 KiB on the machine where this was decided: 70 µs; SHA-256 165 µs, BLAKE2b
320 µs), and what it lets through by chance is one damaged payload in four thousand million. Blobs are checked by
their own SHA-256 as well, which is their name.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from stoker.core.calls import Segment
from stoker.errors import InvalidRequest, NotFound, ProtocolError, StokerError
from stoker.protocol import data_messages as d
from stoker.protocol import messages as m
from stoker.protocol.frames import Buffer
from stoker.protocol.parts import pieces
from stoker.server import wire
from stoker.server.payloads import PayloadFiles
from stoker.server.remote_link import RemoteLink
from stoker.server.spool import FileBody
from stoker.transport.segments import checked

if TYPE_CHECKING:
    from stoker.server.server import Server

log = logging.getLogger(__name__)

OWED_MAX = 10_000  # names that a node is told when it is back; it drops what it does not use by itself


class NodeCopies:
    """Which nodes were sent which payloads, so that they are told when those need not be kept."""

    def __init__(self) -> None:
        self._nodes: dict[str, set[str]] = {}
        self._watching: dict[str, RemoteLink] = {}
        self._owed: dict[str, deque[str]] = {}

    def sent(self, name: str, node: str) -> None:
        """Note that a node has, or is about to have, a payload."""
        self._nodes.setdefault(name, set()).add(node)

    def drop(self, names: Iterable[str]) -> None:
        """Tell the nodes that have them; one that is away is told when it is back."""
        if not self._nodes:
            return
        told: dict[str, list[str]] = {}
        for name in names:
            for node in self._nodes.pop(name, ()):
                told.setdefault(node, []).append(name)
        for node, gone in told.items():
            link = self._watching.get(node)
            if link is not None:
                link.send(d.Drop(gone))
            else:
                self._owed.setdefault(node, deque(maxlen=OWED_MAX)).extend(gone)

    def forget(self, node: str) -> None:
        """A node is gone, for good as a rule: what it is owed would be kept for ever."""
        if node not in self._watching:
            self._owed.pop(node, None)
            for nodes in self._nodes.values():
                nodes.discard(node)

    def watch(self, node: str, link: RemoteLink) -> None:
        """Tell a node on this connection from now on, and what it was not told yet."""
        self._watching[node] = link
        owed = self._owed.pop(node, None)
        if owed:
            link.send(d.Drop(list(owed)))

    def unwatch(self, node: str, link: RemoteLink) -> None:
        if self._watching.get(node) is link:
            del self._watching[node]


class NodePeer:
    """What a node asks for on a data connection."""

    def __init__(self, server: Server, link: RemoteLink, node: str) -> None:
        self._server = server
        self._link = link
        self._node = node

    def received(self, message: Any, body: memoryview) -> None:
        if isinstance(message, d.WatchDrops):
            self._server.copies.watch(self._node, self._link)
        elif isinstance(message, d.Fetch):
            try:
                self._fetch(message)
            except StokerError as error:
                self._link.send(_failure(error))
        elif isinstance(message, d.AgreeLock):
            self._server.run(self._agree(message), name=f"lock for node {self._node}")
        else:
            raise ProtocolError(f"A node does not send {type(message).__name__} on a data connection.")

    def closed(self) -> None:
        self._server.copies.unwatch(self._node, self._link)

    def _fetch(self, message: d.Fetch) -> None:
        if message.kind == "payload":
            body = _payload(self._server.files, message.name)
            self._server.copies.sent(message.name, self._node)
            self._link.stream(_file_frames(body, message.name))
        elif message.kind in {"blob", "blob_size"}:
            self._server.run(self._blob(message), name=f"blob for node {self._node}")
        else:
            raise InvalidRequest(f"There is nothing of the kind {message.kind!r:.40} to be fetched.")

    async def _agree(self, message: d.AgreeLock) -> None:
        try:
            self._link.send(d.AgreedLock(await self._server.locks.agree(message.name, message.text)))
        except StokerError as error:
            self._link.send(_failure(error))
        self._server.flush()

    async def _blob(self, message: d.Fetch) -> None:
        blobs = self._server.blobs
        try:
            if message.kind == "blob_size":
                self._link.send(d.Fetched(await asyncio.to_thread(blobs.size, message.name)))
            else:
                opened = blobs.open_mapped(message.name)
                view, digest = await asyncio.to_thread(_read_once, opened)
                self._link.stream(_blob_frames(opened, view, digest))
        except StokerError as error:
            self._link.send(_failure(error))
        self._server.flush()


def _payload(files: PayloadFiles, name: str) -> FileBody:
    for directory in (files.segments, files.spill):
        try:
            return FileBody(files, Segment(name, (directory / checked(name)).stat().st_size))
        except FileNotFoundError:
            continue
    raise NotFound(f"Payload {name} is gone: its call was settled and delivered, or cancelled.")


def _file_frames(body: FileBody, name: str) -> Iterator[Buffer]:
    told, digest = m.Part(len(body)), 0
    try:
        for piece in body.pieces():
            digest = zlib.crc32(piece, digest)
            yield from wire.encode(told, [piece])
    except FileNotFoundError:
        yield from wire.encode(_failure(NotFound(f"Payload {name} is gone: its call has ended meanwhile.")))
    except OSError as error:
        log.error("payload %s could not be read: %s", name, error)
        yield from wire.encode(_failure(StokerError(f"Payload {name} could not be read on the server: {error}.")))
    else:
        yield from wire.encode(d.Fetched(len(body), f"{digest:08x}"))


def _read_once(opened: AbstractContextManager[memoryview]) -> tuple[memoryview, int]:
    """Open a blob and have its bytes in memory, which the system may take back; return them with their digest."""
    view = opened.__enter__()
    return view, zlib.crc32(view)


def _blob_frames(opened: AbstractContextManager[memoryview], view: memoryview, digest: int) -> Iterator[Buffer]:
    try:
        told = m.Part(len(view))
        for piece in pieces([view]):
            yield from wire.encode(told, [bytes(piece)])
        yield from wire.encode(d.Fetched(len(view), f"{digest:08x}"))
    finally:
        opened.__exit__(None, None, None)


def _failure(error: StokerError) -> d.FetchFailed:
    return d.FetchFailed(type(error).__name__, str(error), error.fields)
