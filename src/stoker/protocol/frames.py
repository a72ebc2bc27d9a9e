"""Frames: how messages lie on a byte stream. Pure functions and one incremental reader; no I/O.

    | 2 bytes | 1 byte  | 1 byte | 4 bytes       | 8 bytes     | header_length  | body_length |
    | b"St"   | version | kind   | header_length | body_length | JSON header    | body parts  |

All integers are big-endian. The header is the message; the body is its parts one after another, whose sizes stand in
the header. Bodies are opaque here. Anything malformed is a `ProtocolError`, after which the connection is closed: there
is no way to find the next frame in a stream that lied once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from stoker._version import PROTOCOL_VERSION
from stoker.errors import ProtocolError

MAGIC = b"St"
PREFIX = struct.Struct("!2sBBIQ")
HEADER_MAX_BYTES = 16 << 20  # a batch of 4 096 calls with long errors fits; a list of everything does not
BODY_MAX_BYTES = 256 << 20  # above the largest bundle (100 MB); calls' bigger payloads travel in segments
PART_BYTES = 256 << 10  # a piece of a body that travels in parts: what one turn of the server's loop may take
PARTED_MAX_BYTES = 64 << 30  # a body in parts lies in files until it is complete; past this the sender is mistaken
GREETING_MAX_BYTES = 64 << 10  # all that somebody may send before we know who it is

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class Frame(NamedTuple):
    """One frame as it lay on the wire: its kind, its JSON header, its body."""

    kind: int
    header: bytes
    body: Buffer


def encode_prefix(kind: int, header_size: int, body_size: int) -> bytes:
    """Return the 16 bytes that go before a header and a body."""
    if header_size > HEADER_MAX_BYTES or body_size > BODY_MAX_BYTES:
        raise ProtocolError(
            f"A message of kind {kind} has {header_size} bytes of header and {body_size} of body; at most "
            f"{HEADER_MAX_BYTES} and {BODY_MAX_BYTES} travel in one frame."
        )
    return PREFIX.pack(MAGIC, PROTOCOL_VERSION, kind, header_size, body_size)


def decode_prefix(prefix: Buffer, *, limit: int = BODY_MAX_BYTES) -> tuple[int, int, int]:
    """Return (kind, header size, body size) from 16 bytes.

    Raises:
        ProtocolError: not a frame, one of another protocol version, or one over the limits.
    """
    magic, version, kind, header_size, body_size = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ProtocolError(f"These bytes are no Stoker frame: they begin with {bytes(prefix[:8])!r}.")
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"The peer speaks protocol {version}, this is protocol {PROTOCOL_VERSION}.")
    if header_size > min(HEADER_MAX_BYTES, limit) or body_size > limit:
        raise ProtocolError(f"A frame announces {header_size} + {body_size} bytes, more than the {limit} allowed here.")
    return kind, header_size, body_size


class FrameReader:
    """Cuts a byte stream into frames, however it was chopped up on its way.

    ``limit`` bounds header and body of what is accepted next; it starts small and is raised once the peer is known.
    """

    def __init__(self, *, limit: int = BODY_MAX_BYTES) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._needed = PREFIX.size  # bytes until the next step can be made: avoids re-parsing a prefix per chunk

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame; a stream that ends with some was truncated."""
        return len(self._buffer)

    def feed(self, data: Buffer) -> Iterable[Frame]:
        """Return the frames that are complete with this data. Their buffers are the reader's no longer."""
        if not self._buffer and len(data) >= PREFIX.size:
            # The usual case, and the one in which somebody waits: one frame, whole, by itself.
            magic, version, kind, header_size, body_size = PREFIX.unpack_from(data)
            body_at = PREFIX.size + header_size
            if (
                body_at + body_size == len(data)
                and magic == MAGIC
                and version == PROTOCOL_VERSION
                and header_size <= HEADER_MAX_BYTES
                and len(data) <= self.limit
            ):
                view = memoryview(data)
                return (Frame(kind, bytes(view[PREFIX.size : body_at]), view[body_at:]),)
        return self._feed(data)

    def _feed(self, data: Buffer) -> Iterator[Frame]:
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer = bytearray()
        at, end = 0, len(data)
        view = memoryview(data)
        while end - at >= PREFIX.size:
            kind, header_size, body_size = decode_prefix(view[at : at + PREFIX.size], limit=self.limit)
            body_at = at + PREFIX.size + header_size
            if body_at + body_size > end:
                self._needed = PREFIX.size + header_size + body_size
                break
            header = bytes(view[at + PREFIX.size : body_at])
            at = body_at + body_size
            yield Frame(kind, header, view[body_at:at])
        else:
            self._needed = PREFIX.size
        if at < end:
            self._buffer += view[at:]


def split_body(body: Buffer, sizes: Sequence[int]) -> list[memoryview]:
    """Return the parts of a body.

    Raises:
        ProtocolError: the sizes do not add up to the body.
    """
    view = memoryview(body)
    parts = []
    at = 0
    for size in sizes:
        if size < 0:
            raise ProtocolError(f"A part of {size} bytes was announced.")
        parts.append(view[at : at + size])
        at += size
    if at != len(view):
        raise ProtocolError(f"The parts of a frame have {at} bytes, its body {len(view)}.")
    return parts
