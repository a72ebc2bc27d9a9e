"""Payloads between messages and the core, and the files of those that travel outside the frames.

Segments of attached calls live in shared memory (or in the spill directory, where it is full) until their call is
settled and delivered. Those of detached calls are copied to the spill directory, durable, before the call is accepted
or settled: there a worker or a client finds them under the same name.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.core.calls import Payload, Segment
from stoker.errors import ProtocolError, StoreError
from stoker.paths import private_dir
from stoker.protocol.frames import Buffer, split_body
from stoker.protocol.messages import Segments
from stoker.server.kept_payloads import KeptPayloads
from stoker.store.base import RowsRefused
from stoker.transport.segments import SegmentDir

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_PARTIAL = ".partial"
_INDEX = re.compile(r"[0-9]{1,9}")
KEEP_VIEW_BYTES = 4096  # smaller parts are copied out of their frame, so that one waiting call does not hold its batch


def unpack(sizes: Sequence[int], segments: Segments, body: memoryview) -> list[Payload]:
    """Return the payloads of a message in columns.

    Raises:
        ProtocolError: sizes that do not add up, or a segment whose name could leave its directory.
    """
    parts: list[Payload]
    if not segments and len(sizes) == 1 and sizes[0] == body.nbytes <= KEEP_VIEW_BYTES:
        return [bytes(body)]  # a call by itself, as most are
    if body.nbytes <= KEEP_VIEW_BYTES * len(sizes):
        data = bytes(body)
        parts, at = [], 0
        for size in sizes:
            if size < 0:
                raise ProtocolError(f"A part of {size} bytes was announced.")
            parts.append(data[at : at + size])
            at += size
        if at != len(data):
            raise ProtocolError(f"The parts of a frame have {at} bytes, its body {len(data)}.")
    else:
        parts = [p if p.nbytes > KEEP_VIEW_BYTES else bytes(p) for p in split_body(body, sizes)]
    for index, described in segments.items():
        name, length = described if len(described) == 2 else ("", "")
        if not (_INDEX.fullmatch(index) and int(index) < len(parts)):
            raise ProtocolError(f"A segment was announced for payload {index!r:.20}, which is not there.")
        if not (isinstance(name, str) and isinstance(length, int) and length >= 0 and _NAME.fullmatch(name)):
            raise ProtocolError(f"{name!r:.60} is no name of a segment.")
        parts[int(index)] = Segment(name, length)
    return parts


def pack(payloads: Iterable[Payload]) -> tuple[list[int], Segments, list[Buffer]]:
    """Return the columns and the parts of a message that carries these payloads."""
    sizes: list[int] = []
    segments: Segments = {}
    parts: list[Buffer] = []
    for payload in payloads:
        if isinstance(payload, Segment):
            segments[str(len(sizes))] = [payload.name, payload.size]
            sizes.append(0)
        else:
            sizes.append(len(payload))
            parts.append(payload)
    return sizes, segments, parts


class PayloadFiles:
    """The two directories. Methods that touch files are called in the server's threads for them."""

    def __init__(self, segments: Path, spill: Path, *, pool_bytes: int = 0, blobs: BlobStore | None = None) -> None:
        """``blobs``: where copies of detached calls' payloads are kept beside, if not here alone."""
        self.segments = private_dir(segments)
        self.spill = private_dir(spill)
        for left in self.spill.glob(f"*{_PARTIAL}"):  # of a server that was killed while it copied
            left.unlink(missing_ok=True)
        self._left = False
        self.kept = KeptPayloads(blobs, (self.segments, self.spill)) if blobs is not None else None
        self._shared = SegmentDir(self.segments, self.spill, pool_bytes=pool_bytes)

    def persist(self, payload: Payload) -> tuple[bytes, str]:
        """Make a payload durable; return it as (bytes, file name), one of them empty.

        Raises:
            StoreError: its file cannot be written.
            RowsRefused: its file is gone.
        """
        if not isinstance(payload, Segment):
            return bytes(payload), ""
        target = self.spill / payload.name
        partial = self.spill / f"{payload.name}{_PARTIAL}"
        source = self.segments / payload.name
        try:
            if source.exists():
                with source.open("rb") as reader, open(partial, "wb", opener=_private) as writer:
                    shutil.copyfileobj(reader, writer, 1 << 20)
                    writer.flush()
                    os.fsync(writer.fileno())
                partial.replace(target)
                source.unlink()
            else:
                with target.open("rb") as reader:
                    os.fsync(reader.fileno())
            _sync_dir(self.spill)
        except OSError as error:
            partial.unlink(missing_ok=True)
            is_gone = isinstance(error, FileNotFoundError) and self.spill.is_dir()
            kind = RowsRefused if is_gone else StoreError
            raise kind(f"A payload of {payload.size} bytes could not be kept in {self.spill}: {error}") from error
        return b"", payload.name

    def has(self, segment: Segment) -> bool:
        """Tell whether a payload's file is there."""
        return (self.segments / segment.name).exists() or (self.spill / segment.name).exists()

    def delete(self, payloads: Iterable[Payload]) -> None:
        """Remove the files of payloads that are nobody's any more."""
        for payload in payloads:
            if isinstance(payload, Segment):
                if self.kept is not None and (self.spill / payload.name).exists():
                    self.kept.delete([payload.name])
                self._shared.delete(payload.name)

    def forget(self, names: Collection[str]) -> None:
        """Remove what stored calls named, which the store has dropped: here and in the blob store."""
        for name in names:
            (self.spill / name).unlink(missing_ok=True)
        if self.kept is not None:
            self.kept.delete(names)

    def bring(self, names: Collection[str]) -> None:
        """Have the files of stored calls here, if there are any.

        Raises:
            StoreError: the blob store fails: try again.
        """
        if self.kept is not None:
            self.kept.bring(names)

    def close(self) -> None:
        """Wait for the copies that are under way."""
        if self.kept is not None:
            self.kept.close()

    def drain_pool(self) -> None:
        """Give back the memory that was kept for the next big payloads."""
        self._shared.drain_pool()

    def keep(self) -> None:
        """Leave the shared-memory directory to another server."""
        self._left = True

    def remove(self) -> None:
        """Remove the shared-memory directory; the server is going."""
        if not self._left:
            shutil.rmtree(self.segments, ignore_errors=True)


def stored(data: bytes, name: str, spill: Path) -> Payload:
    """Return a payload as the store has it."""
    if not name:
        return data
    try:
        return Segment(name, (spill / name).stat().st_size)
    except OSError as error:
        raise StoreError(f"The payload file {spill / name} is gone: {error}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
