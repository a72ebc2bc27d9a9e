"""How an encoded object lies in its bytes: what stands before the pickle, and where the buffers are.

    0x80 …                                                      a pickle that names no global: nothing is added to it
    b"G" pickle                                                 a pickle
    b"C" major minor pickle                                     a pickle that holds code of that version of Python
    b"B" major minor 0 count:u32 stream:u64 sizes:u64[count]    a pickle with buffers out of band, followed by
         pickle  pad buffer  pad buffer …                       the buffers, each at the next multiple of 64 bytes

Integers are little-endian; ``major minor`` are zero where the pickle holds no code. Offsets count from the first byte
of the payload, so that a payload which lies at an aligned address (a mapped segment does) has aligned buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from stoker.errors import ProtocolError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector load there is
PLAIN = 0x80  # the first byte of every pickle
GLOBALS = ord("G")
CODE = ord("C")
BUFFERS = ord("B")

_HEAD = struct.Struct("<cBBxIQ")
_CODE_MARKER = b"CodeType"  # how cloudpickle spells the type of code objects
_PADDING = bytes(ALIGNMENT_BYTES)


class Encoded:
    """An encoded object, in the parts in which it is written: nothing is joined before it must be.

    ``parts`` may be views of the object's own memory: write them before the object changes.
    """

    __slots__ = ("parts", "size")

    def __init__(self, parts: list[Buffer], size: int | None = None) -> None:
        self.parts = parts
        self.size = sum(map(len, parts)) if size is None else size

    def to_bytes(self) -> bytes:
        """Return the whole as one copy."""
        first = self.parts[0]
        if len(self.parts) == 1 and type(first) is bytes:
            return first
        return b"".join(self.parts)


class Layout(NamedTuple):
    """An opened payload: its pickle, its buffers, and the Python whose code it holds, if any."""

    stream: memoryview
    buffers: list[memoryview]
    code: tuple[int, int] | None


def lay_out(stream: list[Buffer], buffers: Sequence[memoryview], code: tuple[int, int] | None) -> Encoded:
    """Put what a payload begins with before its pickle, and its buffers after it."""
    if buffers:
        return _lay_out_buffers(stream, buffers, code or (0, 0))
    prefix = b"C" + bytes(code) if code else b"G"
    if len(stream) == 1:
        return Encoded([prefix + bytes(stream[0])])
    return Encoded([prefix, *stream])


def _lay_out_buffers(stream: list[Buffer], buffers: Sequence[memoryview], code: tuple[int, int]) -> Encoded:
    length = sum(map(len, stream))
    sizes = [buffer.nbytes for buffer in buffers]
    head = _HEAD.pack(b"B", *code, len(buffers), length) + struct.pack(f"<{len(buffers)}Q", *sizes)
    parts: list[Buffer] = [head, *stream]
    at = len(head) + length
    for buffer, size in zip(buffers, sizes, strict=True):
        if pad := -at % ALIGNMENT_BYTES:
            parts.append(_PADDING[:pad])
        if size:
            parts.append(buffer)
        at += pad + size
    return Encoded(parts, at)


def open_layout(payload: memoryview, *, copy: bool) -> Layout:
    """Return what a payload consists of. ``payload`` is a view of bytes, and not empty.

    The buffers are views of the payload where that is writable, else of one writable copy of them: an array that was
    writable where it came from is writable where it arrives.

    Raises:
        ProtocolError: no payload begins like this, or it is truncated.
    """
    kind = payload[0]
    if kind == PLAIN:
        return Layout(payload, [], None)
    if kind == GLOBALS:
        return Layout(payload[1:], [], None)
    if kind == CODE and len(payload) > 3:
        return Layout(payload[3:], [], (payload[1], payload[2]))
    if kind == BUFFERS and len(payload) >= _HEAD.size:
        return _open_buffers(payload, copy=copy)
    raise ProtocolError(f"These bytes are no payload: they begin with {bytes(payload[:8])!r}.")


def _open_buffers(payload: memoryview, *, copy: bool) -> Layout:
    _, major, minor, count, length = _HEAD.unpack_from(payload)
    at = _HEAD.size + 8 * count
    if at + length > len(payload):
        raise ProtocolError(f"A payload of {len(payload)} bytes announces {count} buffers and a pickle of {length}.")
    sizes = struct.unpack_from(f"<{count}Q", payload, _HEAD.size)
    stream = payload[at : at + length]
    at += length
    spans = []
    for size in sizes:
        at += -at % ALIGNMENT_BYTES
        spans.append((at, size))
        at += size
    if at != len(payload):
        raise ProtocolError(f"A payload has {len(payload)} bytes; its header describes {at}.")
    origin = 0
    if copy or payload.readonly:
        origin = spans[0][0] if spans else 0
        payload = memoryview(bytearray(payload[origin:]))
    buffers = [payload[start - origin : start - origin + size] for start, size in spans]
    return Layout(stream, buffers, (major, minor) if major else None)


def is_code(streams: Iterable[Buffer]) -> bool:
    """Tell whether pickles hold code objects, which only the same minor version of Python can run."""
    return any(_CODE_MARKER in bytes(stream) for stream in streams)
