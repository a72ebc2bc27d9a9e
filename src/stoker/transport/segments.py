"""Payload segments: files in shared memory, written once, mapped copy-on-write by who reads them.

The directory belongs to the server, is private to one user, and is the same for all of a node's processes. A segment is
written with ``writev`` straight from where the object's buffers lie, never through a mapping: a full ``/dev/shm`` is
then an error to be handled (the segment goes to the ``spill`` directory on disk) and not a SIGBUS. The reader's private
mapping costs nothing until it is touched, and what it writes stays its own.

Why segments are used again, and why that is safe: a first write into a page of tmpfs costs three times as much as a
later one, so the owner may keep deleted segments in a pool, from which a writer takes the memory. A private mapping
sees what others write into pages that it has not touched, so a file may be written again only when nobody has it mapped
or open. The kernel knows: it grants a *write lease* (``F_SETLEASE``, see fcntl(2)) only while the file has no other
open description, and a mapping holds one for as long as it lives, whoever has it and whether or not its descriptor was
closed. A pooled file has lost the only name that readers know, so nobody can open it after the test. Where the kernel
grants no lease (a mapping lives, or the file system has none), the file is dropped and a fresh one is written.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from stoker.errors import InvalidRequest, NotFound, StokerError

Buffer: TypeAlias = "bytes | bytearray | memoryview"

# Up to this size a payload travels inside the frame. Through two sockets that costs 0.1 ms, less than
# the 0.2 ms of creating, mapping and removing a file; the bound is what the server's only thread may spend on one call.
INLINE_MAX_BYTES = 256 << 10

RECYCLED_MIN_BYTES = 1 << 20  # a smaller segment is written fresh in the time that looking for another takes
RECYCLED_SLACK = 2  # a pooled file is taken for a segment of at least 1/2 of its size: the rest of it is given back

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_POOLED = re.compile(r"[0-9]+-[0-9a-f]{16}")
_POOL = "+pool"  # no segment can have this name
_IOV_MAX = min(os.sysconf("SC_IOV_MAX"), 1024)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class SegmentDir:
    """A directory of payload segments.

    ``spill`` is a directory on a disk, for when this one is full. ``pool_bytes`` is how much memory of deleted segments
    may be kept to be used again; only the process that deletes them sets it. Every process takes from the pool.
    """

    def __init__(self, path: str | Path, spill: str | Path | None = None, *, pool_bytes: int = 0) -> None:
        self.path = Path(path)
        self.spill = Path(spill) if spill else None
        self._pool = self.path / _POOL
        self._pool_bytes = pool_bytes
        if pool_bytes:
            self._pool.mkdir(mode=0o700, exist_ok=True)

    def write(self, name: str, parts: Sequence[Buffer]) -> int:
        """Write a new segment and return its size in bytes.

        Raises:
            StokerError: there is one of this name, or no room in either directory.
            InvalidRequest: no segment can have this name.
        """
        target = self.path / checked(name)
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        size = sum(map(len, views))
        if size >= RECYCLED_MIN_BYTES and self._write_recycled(target, views, size):
            return size
        try:
            _write_new(target, views)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise _failed(f"Payload segment {name} of {size} bytes could not be written", error) from error
            self._write_without_room(name, views, size)
        return size

    def _write_without_room(self, name: str, views: Sequence[memoryview], size: int) -> None:
        self.drain_pool()
        problems = []
        for directory in (self.path, self.spill):
            if directory is None:
                continue
            try:
                _write_new(directory / name, views)
            except OSError as error:
                problems.append(f"{directory}: {error.strerror}")
            else:
                return
        raise StokerError(
            f"There is no room for a payload of {size} bytes. Free space, or send less at a time. The details:\n"
            f"{'; '.join(problems)}"
        )

    def local(self, name: str) -> memoryview:
        """Map a segment that this process wrote, to be read only.

        Raises:
            NotFound: it is gone.
        """
        return SegmentDir.map(self, name, writable_private=False)

    def map(self, name: str, *, writable_private: bool = True) -> memoryview:
        """Map a segment; the view keeps the mapping, and the memory, alive.

        With ``writable_private`` what is written into the view is seen by nobody else. Pages are read in as they are
        touched: populating a private mapping beforehand would copy every page of it.

        Raises:
            NotFound: there is no such segment.
        """
        descriptor = self._open(name)
        try:
            size = os.fstat(descriptor).st_size
            if not size:
                return memoryview(bytearray() if writable_private else b"")
            access = mmap.PROT_READ | mmap.PROT_WRITE if writable_private else mmap.PROT_READ
            return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=access))
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        checked(name)
        for directory in self._directories():
            try:
                return os.open(directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _failed(f"Payload segment {name} could not be opened", error) from error
        raise NotFound(f"Payload segment {name} is gone: its call was settled and delivered, or its owner has died.")

    def delete(self, name: str) -> None:
        """Remove a segment, if it is there; mappings of it live on."""
        checked(name)
        if self._pool_bytes and self._recycle(self.path / name):
            return
        for directory in self._directories():
            (directory / name).unlink(missing_ok=True)

    def sweep(self, keep: set[str]) -> list[str]:
        """Remove every segment but those to keep, and the pool; return the names of those removed."""
        self.drain_pool()
        removed = []
        for directory in self._directories():
            for name in _listed(directory):
                if name not in keep and name != _POOL:
                    (directory / name).unlink(missing_ok=True)
                    removed.append(name)
        return removed

    def drain_pool(self) -> None:
        """Give the memory of deleted segments back to the system."""
        for name in _listed(self._pool):
            (self._pool / name).unlink(missing_ok=True)

    def _directories(self) -> list[Path]:
        return [self.path] if self.spill is None else [self.path, self.spill]

    def _recycle(self, segment: Path) -> bool:
        """Move a segment into the pool, if that has room for it."""
        try:
            size = segment.lstat().st_size
        except FileNotFoundError:
            return False
        pooled = _pooled(self._pool)
        if not RECYCLED_MIN_BYTES <= size <= self._pool_bytes:
            return False
        for held, name in sorted(pooled):  # the smallest go first: they save the least
            if sum(other for other, _ in pooled) + size <= self._pool_bytes:
                break
            (self._pool / name).unlink(missing_ok=True)
            pooled.remove((held, name))
        try:
            segment.rename(self._pool / f"{size}-{os.urandom(8).hex()}")
        except OSError:
            return False
        return True

    def _write_recycled(self, target: Path, views: Sequence[memoryview], size: int) -> bool:
        """Write into the memory of a deleted segment, if there is one that nobody sees any more."""
        descriptor, claim = self._claim(size)
        if claim is None:
            return False
        try:
            _write_all(descriptor, views)
            os.ftruncate(descriptor, size)
            os.link(claim, target)
        except FileExistsError as error:
            raise _failed(f"Payload segment {target.name} could not be written", error) from error
        except OSError:  # no room, or the pool was swept meanwhile: a fresh file is the way
            return False
        finally:
            os.close(descriptor)
            claim.unlink(missing_ok=True)
        return True

    def _claim(self, size: int) -> tuple[int, Path | None]:
        """Take the best fitting file out of the pool; it has a name of this process's own, and no other reader."""
        fitting = [(held, name) for held, name in _pooled(self._pool) if held <= RECYCLED_SLACK * size]
        for _, name in sorted(fitting, key=lambda found: abs(found[0] - size)):
            claim = self._pool / f"claim-{os.getpid()}-{os.urandom(8).hex()}"
            try:
                (self._pool / name).rename(claim)  # atomic: of several writers one gets it
                descriptor = os.open(claim, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            if _is_unseen(descriptor):
                return descriptor, claim
            os.close(descriptor)
            claim.unlink(missing_ok=True)
        return -1, None


def checked(name: str) -> str:
    """Return a segment's name.

    Raises:
        InvalidRequest: it is none: a path could lead anywhere.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name of a payload segment.")
    return name


def _is_unseen(descriptor: int) -> bool:
    """Tell whether no other open description of this file exists, mappings included."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def _pooled(pool: Path) -> list[tuple[int, str]]:
    return [(int(name.partition("-")[0]), name) for name in _listed(pool) if _POOLED.fullmatch(name)]


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names are wanted, and iterdir makes a Path of each
    except FileNotFoundError:
        return []


def _write_new(target: Path, views: Sequence[memoryview]) -> None:
    """Write a new file; nothing is left of it when that fails."""
    descriptor = os.open(target, _NEW, 0o600)
    try:
        _write_all(descriptor, views)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, views: Sequence[memoryview]) -> None:
    left = list(views)
    at = 0
    while at < len(left):
        written = os.writev(descriptor, left[at : at + _IOV_MAX])
        while at < len(left) and written >= len(left[at]):
            written -= len(left[at])
            at += 1
        if written:
            left[at] = left[at][written:]


def _failed(what: str, error: OSError) -> StokerError:
    return StokerError(f"{what}: {error.strerror}. The details:\n{error.filename}")
