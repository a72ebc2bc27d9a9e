"""Blobs of a server on another machine, as a `BlobStore` that only reads: bundles, and what images are built from.

Each is fetched once per machine, whoever of this user's processes asks, checked by its digest as it arrives, and kept
in the cache of `stoker.blobs.node_cache`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from stoker import paths
from stoker.blobs.keys import check_range, split_key
from stoker.blobs.location import CACHE_BYTES
from stoker.blobs.node_cache import NodeCache
from stoker.engine.local.config import AgentConfig
from stoker.engine.local.data_links import DataLinks
from stoker.errors import ConnectionFailed, InvalidRequest, NotFound, StoreError, StoreUnavailable

FETCH_SECONDS = 60.0  # for which a server that is away is tried: a start waits as long, then it is ordered again
_ADDRESSED = re.compile(r"[^/]+/([0-9a-f]{64})")
_HASHED_AT_ONCE = 1 << 20
_TRIES = 2


class ServerBlobs:
    """See the module. Keys are ``<namespace>/<sha256>``."""

    def __init__(self, links: DataLinks, cache: NodeCache) -> None:
        self._links = links
        self._cache = cache

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        with self._file(key) as file:
            size = os.fstat(file).st_size
            stop = size if length is None else min(size, start + length)
            return b"".join(_read(file, start, stop))

    def size(self, key: str) -> int:
        _digest_of(key)
        try:
            return self._links.size(key, patience=FETCH_SECONDS)
        except ConnectionFailed as error:
            raise StoreUnavailable(str(error)) from error

    def has(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFound:
            return False
        return True

    @contextmanager
    def open_mapped(self, key: str) -> Iterator[memoryview]:
        with self._file(key) as file:
            mapped = mmap.mmap(file, 0, prot=mmap.PROT_READ) if os.fstat(file).st_size else None
        view = memoryview(mapped if mapped is not None else b"")
        try:
            yield view
        finally:
            # An array made on the view keeps the mapping, and with it the cached file, until it goes itself.
            with suppress(BufferError):
                view.release()
                if mapped is not None:
                    mapped.close()

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        raise _only_read(key)

    def delete(self, key: str) -> None:
        raise _only_read(key)

    def keys(self, namespace: str = "") -> list[str]:
        raise StoreError(f"A node cannot list its server's blobs ({namespace!r}): it reads those that it is told of.")

    @contextmanager
    def _file(self, key: str) -> Iterator[int]:
        digest = _digest_of(key)
        with self._cache.hold(
            digest, size=lambda: self.size(key), fetch=lambda file: self._fetch(key, digest, file)
        ) as file:
            yield file

    def _fetch(self, key: str, digest: str, file: int) -> None:
        """Fill a file with a blob; one that is damaged is fetched once more."""
        for _ in range(_TRIES):
            try:
                size = self._links.fetch("blob", key, file, announced=lambda _: None, patience=FETCH_SECONDS)
            except ConnectionFailed as error:
                raise StoreUnavailable(str(error)) from error
            found = hashlib.sha256()
            for chunk in _read(file, 0, size):
                found.update(chunk)
            if found.hexdigest() == digest:
                return
            os.ftruncate(file, 0)
        raise StoreError(
            f"The blob {key} is corrupt: what the server gave node {self._links.node}, twice, has the digest "
            f"{found.hexdigest()}. Delete it there, and run or deploy the app again, which sends it anew."
        )


def server_blobs(config: AgentConfig, links: DataLinks | None = None) -> ServerBlobs:
    """Return the blobs of an agent's server, by these data connections or by some of their own.

    Raises:
        InvalidOption: the server's address or fingerprint is none.
    """
    return ServerBlobs(links or DataLinks.of(config), NodeCache(paths.blob_cache(), max_bytes=CACHE_BYTES))


def _digest_of(key: str) -> str:
    split_key(key)
    found = _ADDRESSED.fullmatch(key)
    if found is None:
        raise InvalidRequest(f"{key!r} is no key of a blob that a node reads: those are named by their digests.")
    return found[1]


def _read(file: int, start: int, stop: int) -> Iterator[bytes]:
    while start < stop and (chunk := os.pread(file, min(_HASHED_AT_ONCE, stop - start), start)):
        yield chunk
        start += len(chunk)


def _only_read(key: str) -> StoreError:
    return StoreError(f"The blob {key} is the server's: a node only reads it.")
