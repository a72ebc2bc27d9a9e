"""Bodies that travel in parts: cut into pieces on one side, put together on the other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stoker.errors import ProtocolError
from stoker.protocol.frames import PART_BYTES, PARTED_MAX_BYTES, Buffer


def pieces(parts: Iterable[Buffer]) -> Iterator[memoryview]:
    """Yield the bytes of buffers in pieces of at most `PART_BYTES`; nothing is copied."""
    for part in parts:
        view = memoryview(part).cast("B")
        for at in range(0, len(view), PART_BYTES):
            yield view[at : at + PART_BYTES]


def check_part(size: int, *, at: int, length: int, limit: int = PARTED_MAX_BYTES) -> None:
    """Check a part of ``length`` bytes that comes after ``at`` bytes of a body of ``size``.

    Raises:
        ProtocolError: it does not belong there, or the body is over the limit.
    """
    if not 0 < size <= limit:
        raise ProtocolError(f"A body of {size} bytes was announced; at most {limit} travel in parts.")
    if at + length > size:
        raise ProtocolError(f"The parts of a body have {at + length} bytes, {size} were announced.")


class GatheredBody:
    """The parts of one body, as they come, in memory."""

    def __init__(self, size: int) -> None:
        check_part(size, at=0, length=0)
        self._body = bytearray(size)
        self._at = 0

    def add(self, piece: Buffer) -> None:
        """Put the next piece in its place.

        Raises:
            ProtocolError: it is more than was announced.
        """
        check_part(len(self._body), at=self._at, length=len(piece))
        self._body[self._at : self._at + len(piece)] = piece
        self._at += len(piece)

    def whole(self, own: Buffer) -> memoryview:
        """Return the body, once the frame has come that it belongs to; ``own`` is that frame's own body.

        Raises:
            ProtocolError: parts are missing, or the frame has a body as well.
        """
        if self._at != len(self._body) or len(own):
            raise ProtocolError(f"A body in parts has {self._at} + {len(own)} bytes, {len(self._body)} were announced.")
        return memoryview(self._body)
