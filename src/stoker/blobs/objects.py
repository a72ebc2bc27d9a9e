"""Blobs in a bucket, with a cache on this node's disk.

A content-addressed blob (``bundle/<sha256>``) is fetched once per node and checked by its digest as it arrives; one
that is damaged is fetched once more, then it is an error. Others may change: a mapped one is cached under its tag.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from stoker.blobs.bucket import Bucket, Found
from stoker.blobs.keys import check_namespace, check_range, split_key
from stoker.blobs.node_cache import NodeCache
from stoker.errors import NotFound, StoreError

_ADDRESSED = re.compile(r"[^/]+/([0-9a-f]{64})")
_HASHED_AT_ONCE = 1 << 20


class ObjectBlobStore:
    """A `BlobStore` in a bucket."""

    def __init__(self, bucket: Bucket, cache: NodeCache) -> None:
        self._bucket = bucket
        self._cache = cache

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        split_key(key)
        return self._bucket.put(key, parts)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        split_key(key)
        check_range(start, length)
        if not _ADDRESSED.fullmatch(key) or length is not None:
            return self._bucket.get(key, start, length)
        with self._file(key) as file:
            size = os.fstat(file).st_size
            return b"".join(_read(file, start, size))

    def size(self, key: str) -> int:
        split_key(key)
        return self._bucket.head(key).size

    def has(self, key: str) -> bool:
        try:
            self.size(key)
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        split_key(key)
        self._bucket.delete(key)

    def keys(self, namespace: str = "") -> list[str]:
        return sorted(self._bucket.keys(check_namespace(namespace)))

    @contextmanager
    def open_mapped(self, key: str) -> Iterator[memoryview]:
        split_key(key)
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

    @contextmanager
    def _file(self, key: str) -> Iterator[int]:
        addressed = _ADDRESSED.fullmatch(key)
        if addressed is not None:
            digest = addressed[1]
            with self._cache.hold(
                digest, size=lambda: self._bucket.head(key).size, fetch=lambda file: self._fetch(key, digest, file)
            ) as file:
                yield file
            return
        found = self._bucket.head(key)
        name = hashlib.sha256(f"{self._bucket.location.place}\n{key}\n{found}".encode()).hexdigest()
        with self._cache.hold(
            f"t-{name}", size=lambda: found.size, fetch=lambda file: self._bucket.download(key, found, file)
        ) as file:
            yield file

    def _fetch(self, key: str, digest: str, file: int) -> None:
        """Fill a file with a blob whose digest is known; a damaged one is fetched once more."""
        for _ in range(2):
            found: Found = self._bucket.head(key)
            self._bucket.download(key, found, file)
            if _digest(file, found.size) == digest:
                return
            os.ftruncate(file, 0)
        raise StoreError(
            f"The blob {key} is corrupt: what {self._bucket.location.place} gave, twice, has another digest. Delete it "
            "there, and run or deploy the app again, which sends it anew."
        )


def _digest(file: int, size: int) -> str:
    found = hashlib.sha256()
    for chunk in _read(file, 0, size):
        found.update(chunk)
    return found.hexdigest()


def _read(file: int, start: int, stop: int) -> Iterator[bytes]:
    while start < stop and (chunk := os.pread(file, min(_HASHED_AT_ONCE, stop - start), start)):
        yield chunk
        start += len(chunk)
