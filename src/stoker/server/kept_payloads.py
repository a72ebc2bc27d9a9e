"""Payload files of detached calls in a remote blob store, so that a server on another machine can go on with them.

The files in the server's own directories stay what workers and clients map. A copy of each is in the blob store before
its call is accepted or settled, under ``payload/<name>``, and is fetched where the file is not there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.core.calls import Payload, Segment
from stoker.errors import NotFound, StokerError, StoreError
from stoker.store.base import RowsRefused

log = logging.getLogger(__name__)

NAMESPACE = "payload"
AT_ONCE = 8  # uploads and downloads: what waits is the network, and one stream of it is slow
FINISH_SECONDS = 10.0  # for copies that are under way when the server ends
_READ_BYTES = 1 << 20
_PARTIAL = ".partial"  # which `PayloadFiles` sweeps


class KeptPayloads:
    """See the module. ``places``: the directories where a payload's file may be; the last is for fetched ones."""

    def __init__(self, blobs: BlobStore, places: Sequence[Path]) -> None:
        self._blobs = blobs
        self._places = places
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="kept-payloads")

    async def keep(self, loads: Iterable[Payload]) -> None:
        """Have the files of payloads in the blob store: all of them when this returns.

        Raises:
            RowsRefused: the file of one is gone.
            StoreError: the blob store failed.
        """
        loop = asyncio.get_running_loop()
        names = [load.name for load in loads if isinstance(load, Segment)]
        found = await asyncio.gather(
            *(loop.run_in_executor(self._threads, self._put, name) for name in names), return_exceptions=True
        )
        for outcome in found:  # all have ended: none goes on writing for a call that was refused
            if isinstance(outcome, BaseException):
                raise outcome

    def bring(self, names: Collection[str]) -> None:
        """Fetch the files that are not here; one that is not in the blob store either is left out.

        Raises:
            StoreError: the blob store, or the disk, failed.
        """
        missing = [name for name in names if name and self._path(name) is None]
        for _ in self._threads.map(self._fetch, missing):
            pass

    def delete(self, names: Collection[str]) -> None:
        """Remove the copies of files that are nobody's any more, when there is time; what fails is swept later."""
        for name in names:
            with suppress(RuntimeError):  # we are closing
                self._threads.submit(self._delete, name)

    def names(self) -> list[str]:
        """Return the names of all copies."""
        return [key.partition("/")[2] for key in self._blobs.keys(NAMESPACE)]

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _path(self, name: str) -> Path | None:
        return next((place / name for place in self._places if (place / name).exists()), None)

    def _put(self, name: str) -> None:
        path = self._path(name)
        if path is None:
            raise RowsRefused(f"The payload file {name} is gone, so it could not be kept.")
        try:
            self._blobs.put(f"{NAMESPACE}/{name}", _chunks(path))
        except FileNotFoundError as error:
            raise RowsRefused(f"The payload file {path} was removed while it was copied.") from error
        except OSError as error:
            raise StoreError(f"The payload file {path} cannot be read: {error}.") from error

    def _fetch(self, name: str) -> None:
        target = self._places[-1] / name
        draft = target.with_name(f"{secrets.token_hex(8)}{_PARTIAL}")
        try:
            with self._blobs.open_mapped(f"{NAMESPACE}/{name}") as view:
                file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                try:
                    for at in range(0, len(view), _READ_BYTES):
                        _write(file, view[at : at + _READ_BYTES])
                finally:
                    os.close(file)
            draft.replace(target)
        except NotFound:
            log.error("the payload file %s is neither here nor in the blob store", name)
        except OSError as error:
            raise StoreError(f"The payload file {target} cannot be written: {error}. Free space there.") from error
        finally:
            draft.unlink(missing_ok=True)

    def _delete(self, name: str) -> None:
        try:
            self._blobs.delete(f"{NAMESPACE}/{name}")
        except StokerError as error:
            log.warning("a payload's copy could not be deleted; it is looked for again later: %s", error)


class Keeping:
    """Copies that are under way, and what is to be done after each, in tasks that the server owns."""

    def __init__(
        self, kept: KeptPayloads, *, run: Callable[..., None], failed: Callable[[list[int], str, bool], None]
    ) -> None:
        self._kept = kept
        self._run = run
        self._failed = failed
        self._under_way = 0
        self._none = asyncio.Event()

    def before(self, token: int, loads: Sequence[Payload], then: Callable[[], None]) -> None:
        """Do ``then`` once the files of these payloads are kept; or tell why the write of this token fails."""
        if any(isinstance(load, Segment) for load in loads):
            self._under_way += 1
            self._run(self._keep(token, loads, then), name=f"keep the payloads of write {token}")
        else:
            then()

    async def finish(self) -> None:
        """Wait for what is under way, but not for a blob store that does not answer: what runs is run again."""
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                while self._under_way:
                    self._none.clear()
                    await self._none.wait()
        except TimeoutError:
            log.warning("%d writes are given up whose payloads the blob store has not taken", self._under_way)

    async def _keep(self, token: int, loads: Sequence[Payload], then: Callable[[], None]) -> None:
        try:
            await self._kept.keep(loads)
        except StoreError as error:
            log.error("payloads could not be kept: %s", error)
            self._failed([token], str(error), isinstance(error, RowsRefused))
        else:
            then()
        finally:
            self._under_way -= 1
            self._none.set()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            yield chunk


def _write(file: int, view: memoryview) -> None:
    while view:
        view = view[os.write(file, view) :]
