"""A blocking socket that carries frames, for clients, workers and zygotes: standard library only.

One thread may receive while others send. `send` takes a lock, so that frames of several threads never mix; `receive`
takes none.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from stoker._version import PROTOCOL_VERSION, __version__
from stoker.errors import ConnectionFailed, ProtocolError, VersionMismatch, from_wire
from stoker.protocol.frames import PART_BYTES, Buffer, Frame, FrameReader, encode_prefix, split_body
from stoker.protocol.messages import KIND_OF, Hello, Part, Rejected, Welcome
from stoker.protocol.parts import GatheredBody, pieces
from stoker.protocol.structure import decode_header, encode_header

RECEIVE_BYTES = 256 << 10  # a batch of a thousand small results in one system call
IOV_MAX = 512  # below Linux's 1024 buffers a call
_PART = KIND_OF[Part]


class Received(NamedTuple):
    """A message and the bytes that came with it."""

    message: Any
    body: Buffer

    def parts(self) -> list[memoryview]:
        """Return the body cut by the message's ``sizes``."""
        return split_body(self.body, self.message.sizes)


class FrameSocket:
    """Frames over a connected stream socket. Every method may raise `ConnectionFailed`.

    ``in_parts`` is for peers without a segment directory in common: a big payload travels in `Part` frames.
    """

    def __init__(self, sock: socket.socket, *, in_parts: bool = False) -> None:
        self._sock = sock
        self._in_parts = in_parts
        self._gathered: GatheredBody | None = None
        self._reader = FrameReader()
        self._ready: deque[Frame] = deque()
        self._send_lock = threading.Lock()
        self._chunk = bytearray(RECEIVE_BYTES)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def has_buffered(self) -> bool:
        """Tell whether `receive` would return without reading the socket."""
        return bool(self._ready)

    def settimeout(self, seconds: float | None) -> None:
        """Bound each wait of `receive` and `send`; a wait that is over raises `TimeoutError`."""
        self._sock.settimeout(seconds)

    def send(self, message: Any, parts: Sequence[Buffer] = ()) -> None:
        """Send one message whose body is the concatenated parts; nothing is copied on the way but small headers."""
        kind, header = encode_header(message)
        size = sum(map(len, parts)) if parts else 0
        if self._in_parts and size > PART_BYTES and len(getattr(message, "sizes", (size,))) == 1:
            self._send_parts(encode_prefix(kind, len(header), 0) + header, parts, size)
            return
        self.send_frame(encode_prefix(kind, len(header), size) + header, parts)

    def send_frame(self, head: bytes, parts: Sequence[Buffer] = ()) -> None:
        """Send a frame whose prefix and header are encoded already."""
        with self._send_lock:
            self._write_frame(head, parts)

    def _send_parts(self, head: bytes, parts: Sequence[Buffer], size: int) -> None:
        """Send a body in pieces, then the frame that it belongs to; no other frame comes between them."""
        kind, header = encode_header(Part(size))
        with self._send_lock:
            for piece in pieces(parts):
                self._write_frame(encode_prefix(kind, len(header), len(piece)) + header, [piece])
            self._write_frame(head)

    def _write_frame(self, head: bytes, parts: Sequence[Buffer] = ()) -> None:
        try:
            if not parts:
                self._write(head)
            elif len(parts) < IOV_MAX and sum(map(len, parts)) < RECEIVE_BYTES:
                self._write(b"".join([head, *parts]))
            else:
                self._write_vectors([head, *parts])
        except TimeoutError:
            raise
        except OSError as error:
            raise ConnectionFailed(f"The connection broke while sending: {error}") from error

    def _write(self, data: Buffer) -> None:
        self._sock.sendall(data)

    def _write_vectors(self, buffers: list[Buffer]) -> None:
        views = deque(memoryview(b).cast("B") for b in buffers if len(b))
        while views:
            batch = [views[i] for i in range(min(IOV_MAX, len(views)))]
            sent = self._sock.sendmsg(batch)
            while views and sent >= len(views[0]):
                sent -= len(views.popleft())
            if sent:
                views[0] = views[0][sent:]

    def receive(self) -> Received:
        """Return the next message.

        Raises:
            ConnectionFailed: the peer closed, or the connection broke.
            ProtocolError: what came is no frame.
        """
        while not self._ready:
            self._fill()
        kind, header, body = self._ready.popleft()
        return Received(decode_header(kind, header), body)

    def receive_ready(self) -> list[Received]:
        """Return the messages that are there now, none if there are none; for use after a poll of `fileno`.

        It waits for nothing where no timeout is set; Python's sockets wait for theirs even when told not to.

        Raises:
            ConnectionFailed: the peer closed, or the connection broke.
            ProtocolError: what came is no frame.
        """
        self._fill(socket.MSG_DONTWAIT)
        ready = [Received(decode_header(kind, header), body) for kind, header, body in self._ready]
        self._ready.clear()
        return ready

    def _fill(self, flags: int = 0) -> None:
        try:
            data = self._read(flags)
        except TimeoutError:
            raise
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionFailed(f"The connection broke while receiving: {error}") from error
        if not data:
            if self._reader.pending or self._gathered is not None:
                raise ConnectionFailed("The peer closed the connection in the middle of a frame.")
            raise ConnectionFailed("The peer closed the connection.")
        frames = self._reader.feed(data)
        self._ready.extend(self._joined(frames) if self._in_parts else frames)

    def _read(self, flags: int) -> bytes:
        """Return what came, empty at the end of the stream; `BlockingIOError` where nothing can be read yet."""
        count = self._sock.recv_into(self._chunk, 0, flags)
        return bytes(memoryview(self._chunk)[:count])

    def _joined(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Put the parts of a body together, and give it to the frame that it belongs to."""
        for kind, header, body in frames:
            if kind == _PART:
                if self._gathered is None:
                    self._gathered = GatheredBody(decode_header(kind, header).size)
                self._gathered.add(body)
            elif self._gathered is not None:
                whole, self._gathered = self._gathered.whole(body), None
                yield Frame(kind, header, whole)
            else:
                yield Frame(kind, header, body)

    def shutdown(self) -> None:
        """Wake whoever waits in `receive`, which then raises; safe from any thread."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already, or never connected: nobody waits

    def close(self) -> None:
        self._sock.close()


def connect_unix(path: str, *, timeout: float | None = None) -> FrameSocket:
    """Connect to a Unix socket.

    Raises:
        ConnectionFailed: nobody listens there, or the path is longer than the system allows.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise ConnectionFailed(f"No server answers at {path}: {error}") from error
    return FrameSocket(sock)


def greet(
    link: FrameSocket,
    *,
    role: str,
    name: str,
    token: str = "",
    term: int = 0,
    python: str = "",
    connection: int = 0,
    seen: int = 0,
) -> Welcome:
    """Say who we are, as in `Hello`, and return the server's welcome.

    Raises:
        VersionMismatch: the server speaks another protocol; the message names both versions.
        StokerError: whatever the server rejected us with.
    """
    hello = Hello(role, name, __version__, token, os.getpid(), python, term, connection, seen)
    try:
        link.send(hello)
        answer = link.receive().message
    except ProtocolError as error:
        raise VersionMismatch(
            f"The server does not speak this client's protocol ({error}) This is Stoker {__version__}, protocol "
            f"{PROTOCOL_VERSION}: install the server's version here, or restart the server with this one."
        ) from error
    if isinstance(answer, Rejected):
        raise from_wire(answer.type_name, answer.message, answer.fields)
    if not isinstance(answer, Welcome):
        raise ProtocolError(f"The server answered a greeting with {type(answer).__name__}.")
    return answer
