"""Blobs of a remote store on this node's disk: each fetched once, whoever asks, and the least recently used go first.

``<root>/<name>`` is a whole blob; it is written under ``<root>/~new`` and renamed. Whoever fetches one holds
``<root>/~locks/<name>``, so that all others, of any process, wait and find it. Who uses one holds a shared lock on the
file itself, which its mappings keep as well, for as long as they live: what is locked is not evicted.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stoker.errors import StoreError
from stoker.paths import private_dir

UNFINISHED_AGE_S = 86400.0  # past which a download's file has no writer any more
_NEW = "~new"
_LOCKS = "~locks"
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC

Fetch = Callable[[int], None]


class NodeCache:
    """See the module. ``max_bytes`` bounds what lies there beside that which is in use."""

    def __init__(self, root: Path, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.root = private_dir(root)
        self._max_bytes = max_bytes
        self._clock = clock
        self._new, self._locks = private_dir(root / _NEW), private_dir(root / _LOCKS)
        self._sweep()

    @contextmanager
    def hold(self, name: str, *, size: Callable[[], int], fetch: Fetch) -> Iterator[int]:
        """Open the blob of this name, fetching it if it is not here; it stays for as long as the block runs.

        ``size`` is asked before a fetch, to make room for it. ``fetch`` fills a new file, or raises.

        Raises:
            StoreError: the disk of the cache fails.
        """
        file = self._taken(name)
        while file is None:
            with _alone(self._locks / name):
                file = self._taken(name)  # whoever held the lock has fetched it
                if file is None:
                    with self._disk():
                        self.make_room(size())
                    self._fetch(name, fetch)
                    file = self._taken(name)
        try:
            yield file
        finally:
            os.close(file)

    def make_room(self, wanted: int) -> None:
        """Remove what was not used for longest, until so many bytes more may come; what is in use stays."""
        found = sorted(self._blobs())
        too_many = sum(size for _, size, _ in found) + wanted - self._max_bytes
        for _, size, path in found:
            if too_many <= 0:
                return
            if _removed(path):
                too_many -= size

    def _taken(self, name: str) -> int | None:
        """Return the open file of a blob, locked against eviction and marked as used; None if it is not here."""
        path = self.root / name
        with self._disk():
            try:
                file = os.open(path, _READ)
            except FileNotFoundError:
                return None
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file).st_nlink == 0:  # evicted between the two
                os.close(file)
                return None
            now = self._clock()
            with suppress(OSError):  # it may have gone its way on a disk that is full
                os.utime(file, (now, now))
            return file

    def _fetch(self, name: str, fetch: Fetch) -> None:
        path = self._new / secrets.token_hex(16)
        with self._disk():
            file = os.open(path, _CREATE, 0o600)
        try:
            with self._disk():
                fetch(file)
                os.fsync(file)
                path.rename(self.root / name)
        finally:
            os.close(file)
            path.unlink(missing_ok=True)

    def _blobs(self) -> Iterator[tuple[float, int, Path]]:
        with os.scandir(self.root) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode):
                        yield about.st_mtime, about.st_size, Path(entry.path)

    def _sweep(self) -> None:
        limit = self._clock() - UNFINISHED_AGE_S
        for path in self._new.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            said = error.strerror or str(error)
            raise StoreError(
                f"The cache of blobs in {self.root} failed: {said}. Free space there, or make it writable."
            ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock file alone; whoever held it removes it, and those who waited take the next one."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                yield
                path.unlink(missing_ok=True)
                return
        finally:
            os.close(lock)


def _removed(path: Path) -> bool:
    """Remove a blob unless somebody uses it."""
    try:
        file = os.open(path, _READ)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
