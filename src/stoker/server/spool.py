"""Bodies that come in parts over TCP, gathered in a file: a big one costs the server no memory of its own.

The file lies where payload segments lie, under a name that one of the client's own could have, so that it becomes a
call's payload without being copied, and is swept like one if its client is gone. It goes over to the disk where shared
memory is full.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from stoker.core.calls import Segment
from stoker.errors import ProtocolError, StokerError
from stoker.protocol.frames import PART_BYTES, PARTED_MAX_BYTES
from stoker.protocol.parts import check_part
from stoker.server.payloads import PayloadFiles
from stoker.transport.segments import checked

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Spool:
    """One body. After a failed write the rest is counted and dropped: ``failure`` says why it could not be kept.

    Pieces are written on the loop: each takes a fraction of a millisecond, into memory or the system's page cache.
    """

    def __init__(self, files: PayloadFiles, session: str, *, size: int, on_disk: bool = False) -> None:
        check_part(size, at=0, length=0, limit=PARTED_MAX_BYTES)
        self.size = size
        self.failure: StokerError | None = None
        self._files = files
        self._at = 0
        self._name = f"{session}.{secrets.token_hex(8)}.a"
        in_memory = not on_disk and _has_room(files.segments, size)
        self._path = (files.segments if in_memory else files.spill) / self._name
        self._fd = -1
        self._kept = False
        self._attempt(self._open)

    def add(self, size: int, piece: memoryview) -> None:
        """Keep the next piece.

        Raises:
            ProtocolError: it is more than was announced, or of another body.
        """
        if size != self.size:
            raise ProtocolError(f"A part of a body of {size} bytes came among those of one of {self.size}.")
        check_part(self.size, at=self._at, length=len(piece))
        at, self._at = self._at, self._at + len(piece)
        if self.failure is None:
            self._attempt(lambda: self._write(piece, at))

    def complete(self, own: memoryview) -> None:
        """Check that the message has come that this belongs to; ``own`` is the body of its frame.

        Raises:
            ProtocolError: parts are missing, or the frame has a body as well.
        """
        self._release()
        if self._at != self.size or len(own):
            raise ProtocolError(f"A body in parts has {self._at} + {len(own)} bytes, {self.size} were announced.")

    def keep(self) -> Segment:
        """Make it a payload, whose file is the call's from now on."""
        self._kept = True
        return Segment(self._name, self.size)

    def keep_as(self, name: str) -> Segment:
        """Make it the payload of this name, which is none that is there."""
        target = self._path.with_name(checked(name))
        self._path.rename(target)
        self._kept = True
        return Segment(name, self.size)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> Iterator[bytes]:
        """Yield its bytes."""
        with self._path.open("rb") as file:
            while data := file.read(PART_BYTES):
                yield data

    def close(self) -> None:
        """Remove what was not kept."""
        self._release()
        if not self._kept:
            self._path.unlink(missing_ok=True)

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            self._release()
            self._path.unlink(missing_ok=True)
            self.failure = StokerError(
                f"The server has no room for a payload of {self.size} bytes: {error.strerror}. Free space there, or "
                f"send less at a time. The details:\n{self._path.parent}"
            )

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _write(self, piece: memoryview, at: int) -> None:
        try:
            _write_all(self._fd, piece, at)
        except OSError as error:
            if error.errno not in _NO_ROOM or self._path.parent == self._files.spill:
                raise
            self._go_to_disk(at)
            _write_all(self._fd, piece, at)

    def _go_to_disk(self, length: int) -> None:
        self._release()
        full, self._path = self._path, self._files.spill / self._name
        try:
            self._open()
            with full.open("rb") as source, os.fdopen(os.dup(self._fd), "wb") as target:
                shutil.copyfileobj(source, target, PART_BYTES)
                target.truncate(length)
        finally:
            full.unlink(missing_ok=True)

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileBody:
    """A payload's file as a part of a body, read when it is sent."""

    def __init__(self, files: PayloadFiles, segment: Segment) -> None:
        self._places = (files.segments / segment.name, files.spill / segment.name)
        self._size = segment.size

    def __len__(self) -> int:
        return self._size

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes.

        Raises:
            OSError: the file is gone, or shorter than it was.
        """
        left = self._size
        with _open_first(self._places) as file:
            while left:
                data = file.read(min(left, PART_BYTES))
                if not data:
                    raise OSError(errno.EIO, "it is shorter than it was", file.name)
                left -= len(data)
                yield data


def _has_room(directory: Path, size: int) -> bool:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize > size


def _write_all(fd: int, piece: memoryview, at: int) -> None:
    while piece:
        written = os.pwrite(fd, piece, at)
        piece, at = piece[written:], at + written


def _open_first(places: tuple[Path, Path]) -> BinaryIO:
    try:
        return places[0].open("rb")
    except FileNotFoundError:
        return places[1].open("rb")
