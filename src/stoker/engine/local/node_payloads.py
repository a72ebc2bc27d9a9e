"""Payloads on a node whose server is on another machine: each brought once, whoever asks, and dropped when it is over.

What was brought has mode 0400, what workers of this node have written 0600: those files are their writers' own until
the server has them. A brought file goes when the server says that its call is over, and least recently used first
where all together are more than the node's limit. Who has one mapped keeps it, so that dropping is always safe.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import shutil
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stoker import paths
from stoker.engine.local.data_links import LINKS_MAX, Announced, DataLinks
from stoker.errors import NotFound, StokerError
from stoker.quantities import parse_size
from stoker.transport.segments import checked

LIMIT_VARIABLE = "STOKER_NODE_PAYLOADS"  # e.g. 8GiB: what brought payloads may take of this node's shared memory
LIMIT_SHARE = 0.5  # of the shared memory where nothing was said: the other half is the workers' own results'
BRING_SECONDS = 30.0  # for which a server that is away is tried; a worker asks again
BROUGHT_MODE = 0o400
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
log = logging.getLogger("stoker.agent")


class NodePayloads:
    """See the module. `bring` is for the loop; all else may be called from any thread."""

    def __init__(self, directory: Path, links: DataLinks, *, limit: int = 0) -> None:
        self.directory = paths.private_dir(directory)
        self._links = links
        self._limit = limit or _limit(directory)
        self._lock = threading.Lock()
        self._brought: OrderedDict[str, int] = OrderedDict()  # name → bytes, the least recently used first
        self._flights: dict[str, asyncio.Task[None]] = {}
        self._over: set[str] = set()  # dropped while they are being brought
        self._threads = ThreadPoolExecutor(LINKS_MAX, thread_name_prefix="payloads")
        self._adopt()

    async def bring(self, name: str) -> None:
        """Return when a payload is here, whole and checked.

        Raises:
            NotFound: the server has it not.
            ConnectionFailed: there is no server just now.
            StokerError: it arrived damaged, or there is no room for it.
        """
        if self._is_here(checked(name)):
            return
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = asyncio.create_task(self._fly(name), name=f"bring {name}")
        await asyncio.shield(flight)  # who asked may go away: others wait, or will ask

    async def _fly(self, name: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, name)
        finally:
            with self._lock:
                del self._flights[name]
                self._over.discard(name)

    def _is_here(self, name: str) -> bool:
        with self._lock:
            if name in self._brought:
                self._brought.move_to_end(name)
        return (self.directory / name).exists()

    def _fetch(self, name: str) -> None:
        draft = self.directory / f"+{secrets.token_hex(8)}"  # no segment can have this name
        try:
            file = os.open(draft, _NEW, 0o600)
            try:
                size = self._fill(name, file)
                os.fchmod(file, BROUGHT_MODE)
            finally:
                os.close(file)
            with self._lock:
                if name in self._over:  # nobody would ever say again that it may go
                    raise NotFound(f"Payload {name} is gone: its call has ended while it was brought.")
                draft.rename(self.directory / name)
                self._brought[name] = size
        except OSError as error:
            raise StokerError(
                f"Payload {name} could not be kept on node {self._links.node}: {error.strerror}. Free space there. "
                f"The details:\n{self.directory}"
            ) from error
        finally:
            draft.unlink(missing_ok=True)

    def _fill(self, name: str, file: int) -> int:
        try:
            return self._transfer(name, file, self.make_room)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        self.drop_all()  # others' use of the shared memory leaves less than the limit
        return self._transfer(name, file, lambda _: None)

    def _transfer(self, name: str, file: int, announced: Announced) -> int:
        return self._links.fetch("payload", name, file, announced=announced, patience=BRING_SECONDS)

    def make_room(self, size: int) -> None:
        """Drop what was not used for longest, until so many bytes more may come."""
        with self._lock:
            while self._brought and sum(self._brought.values()) + size > self._limit:
                name, _ = self._brought.popitem(last=False)
                self._unlink(name)

    def drop(self, names: Iterable[str]) -> None:
        """Remove brought payloads whose calls are over."""
        with self._lock:
            for name in names:
                if self._brought.pop(name, None) is not None:
                    self._unlink(name)
                elif name in self._flights:
                    self._over.add(name)

    def drop_all(self) -> None:
        """Remove everything that was brought."""
        self.drop(list(self._brought))

    def forget_worker(self, worker: str) -> None:
        """Remove what a worker that has ended left of its own: the server has it, or has the call run again."""
        for path in self.directory.glob(f"r-{worker}-*"):
            if path.name not in self._brought:
                path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Bring nothing more, and remove the directory: nobody is left who uses it."""
        self._links.close()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)
        self._threads.shutdown()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    def _unlink(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)

    def _adopt(self) -> None:
        """Take over what an agent before this one brought; of what it was bringing nothing is left."""
        found = []
        for path in self.directory.iterdir():
            if path.name.startswith("+"):
                path.unlink(missing_ok=True)
                continue
            about = path.lstat()
            if stat.S_IMODE(about.st_mode) == BROUGHT_MODE:
                found.append((about.st_mtime, path.name, about.st_size))
        for _, name, size in sorted(found):
            self._brought[name] = size


def _limit(directory: Path) -> int:
    if chosen := os.environ.get(LIMIT_VARIABLE):
        return parse_size(chosen, option=LIMIT_VARIABLE)
    found = os.statvfs(directory)
    return int(found.f_blocks * found.f_frsize * LIMIT_SHARE)
