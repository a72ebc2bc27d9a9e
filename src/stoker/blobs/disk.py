"""Blobs as files: ``<root>/<namespace>/<shard>/<name>``.

A blob is written under ``<root>/~new``, synced, then renamed: a key holds all of its bytes or none, also after a crash.
No key has a ``~``, so what a crash left there is known for what it is, and swept when a store is opened later.

Below the root no symbolic link is followed: whoever can plant one cannot make us read or write elsewhere. Nothing is
held between calls, so threads, forks and processes may share a root.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

from stoker.blobs.keys import check_namespace, check_range, split_key
from stoker.errors import NotFound, StoreError

UNFINISHED_AGE_S = 3600.0
"""What was last written this long ago and has not got its name never will: its writer is gone."""

_NO_NAMESPACE = "~"
_NEW = "~new"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_OURS = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO)


class DiskBlobStore:
    """A `BlobStore` under the directory ``root``, which must be there; what it makes is for this user only."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        with _translated(root, _NEW, writing=True):
            _sweep(root, last_written_before=clock() - UNFINISHED_AGE_S)

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        new = _NewBlob(self.root, key)
        try:
            for part in parts:  # may raise whatever its source raises, which is not the disk's fault
                new.write(part)
            return new.finish()
        finally:
            new.close()

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        with _translated(self.root, key), self._file(key) as file:
            rest = max(os.fstat(file).st_size - start, 0)
            return _read(file, start, rest if length is None else min(length, rest))

    def size(self, key: str) -> int:
        with _translated(self.root, key), self._file(key) as file:
            return os.fstat(file).st_size

    def has(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        namespace, name = split_key(key)
        with suppress(NotFound), _translated(self.root, key), _shard(self.root, namespace, name) as directory:
            os.unlink(name, dir_fd=directory)

    def keys(self, namespace: str = "") -> list[str]:
        prefix = f"{namespace}/" if check_namespace(namespace) else ""
        with suppress(NotFound), _translated(self.root, prefix):
            return sorted(prefix + name for name in _names(self.root, namespace))
        return []

    @contextmanager
    def open_mapped(self, key: str) -> Iterator[memoryview]:
        with _translated(self.root, key), self._file(key) as file:
            mapped = mmap.mmap(file, 0, prot=mmap.PROT_READ) if os.fstat(file).st_size else None
        view = memoryview(mapped if mapped is not None else b"")
        try:
            yield view
        finally:
            # An array made on the view keeps the mapping until it goes itself.
            with suppress(BufferError):
                view.release()
                if mapped is not None:
                    mapped.close()

    @contextmanager
    def _file(self, key: str) -> Iterator[int]:
        namespace, name = split_key(key)
        with _shard(self.root, namespace, name) as directory:
            file = os.open(name, _READ, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.ENXIO, "not a plain file", name)
            yield file
        finally:
            os.close(file)


class _NewBlob:
    """A blob that has no name yet. Without `finish`, `close` leaves nothing of it."""

    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self._key = key
        self._namespace, self._name = split_key(key)
        self._unfinished = secrets.token_hex(16)
        self._size = 0
        self._named = False
        with _translated(root, key, writing=True), _directory(root, _NEW, make=True) as new:
            self._file = os.open(self._unfinished, _CREATE, 0o600, dir_fd=new)

    def write(self, part: bytes | memoryview) -> None:
        with _translated(self._root, self._key, writing=True), memoryview(part) as view, view.cast("B") as rest:
            self._size += len(rest)
            written = 0
            while written < len(rest):
                written += os.write(self._file, rest[written:])

    def finish(self) -> int:
        """Make the bytes durable, then the name; return the size."""
        with _translated(self._root, self._key, writing=True):
            os.fsync(self._file)
            with (
                _directory(self._root, _NEW) as new,
                _shard(self._root, self._namespace, self._name, make=True) as shard,
            ):
                os.rename(self._unfinished, self._name, src_dir_fd=new, dst_dir_fd=shard)
                self._named = True
                os.fsync(shard)
        return self._size

    def close(self) -> None:
        with suppress(OSError):  # a disk that fails only now has told `fsync` that all is well
            os.close(self._file)
        if not self._named:
            with suppress(OSError), _directory(self._root, _NEW) as new:
                os.unlink(self._unfinished, dir_fd=new)


@contextmanager
def _directory(root: Path, *parts: str, make: bool = False) -> Iterator[int]:
    """Open a directory below the root, level by level, so that none of them is a link."""
    try:
        inner = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StoreError(f"The blob directory {root} is gone. Put it back, or restart the server.") from error
    try:
        for part in parts:
            outer, inner = inner, _enter(inner, part, make=make)
            os.close(outer)
        yield inner
    finally:
        os.close(inner)


def _enter(outer: int, part: str, *, make: bool) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=outer)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(part, 0o700, dir_fd=outer)
    os.fsync(outer)
    return os.open(part, _DIRECTORY, dir_fd=outer)


@contextmanager
def _shard(root: Path, namespace: str, name: str, *, make: bool = False) -> Iterator[int]:
    """Open the directory of a blob: one of 256, by a checksum, because names may all begin alike."""
    shard = f"{crc32(name.encode()) & 0xFF:02x}"
    with _directory(root, namespace or _NO_NAMESPACE, shard, make=make) as directory:
        yield directory


def _names(root: Path, namespace: str) -> list[str]:
    """Return the names of all blobs of a namespace."""
    with _directory(root, namespace or _NO_NAMESPACE) as outer:
        shards = _listed(outer)
    names: list[str] = []
    for shard in shards:
        with _directory(root, namespace or _NO_NAMESPACE, shard) as directory:
            names += _listed(directory)
    return names


def _listed(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _sweep(root: Path, *, last_written_before: float) -> None:
    with _directory(root, _NEW, make=True) as new:
        for name in _listed(new):
            with suppress(FileNotFoundError):  # another process sweeps too, or its put is done
                if os.stat(name, dir_fd=new, follow_symlinks=False).st_mtime < last_written_before:
                    os.unlink(name, dir_fd=new)


def _read(file: int, start: int, length: int) -> bytes:
    data = os.pread(file, length, start)
    if len(data) == length:
        return data
    parts = [data]
    got = len(data)
    while got < length and parts[-1]:  # one read gives 2 GiB at most
        parts.append(os.pread(file, length - got, start + got))
        got += len(parts[-1])
    return b"".join(parts)


@contextmanager
def _translated(root: Path, key: str, *, writing: bool = False) -> Iterator[None]:
    """Raise as one of our errors what the disk does to a blob inside the block."""
    try:
        yield
    except FileNotFoundError as error:
        if writing:
            raise StoreError(f"The blob {key} in {root} was removed while it was written. Try again.") from error
        raise NotFound(f"There is no blob {key} in {root}.") from error
    except OSError as error:
        raise StoreError(f"The blob {key} in {root}: {_advice(error)}") from error


def _advice(error: OSError) -> str:
    said = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        return f"no space is left ({said}). Nothing of it was kept; free space on this disk and try again."
    if error.errno in _FORBIDDEN:
        return f"not permitted ({said}). Make the directory readable and writable for user {os.getuid()}."
    if error.errno in _NOT_OURS:
        return f"a link or something else lies in its place ({said}). Nobody but Stoker may write there; remove it."
    return f"the disk failed ({said}). Look at the disk."
