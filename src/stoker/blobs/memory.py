"""Blobs in memory, for embedded runs and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock

from stoker.blobs.keys import check_namespace, check_range, split_key
from stoker.errors import NotFound


class MemoryBlobStore:
    """A `BlobStore` that lives as long as the object."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._lock = Lock()

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        split_key(key)
        data = b"".join(parts)
        with self._lock:
            self._blobs[key] = data
        return len(data)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        data = self._found(key)
        return data[start:] if length is None else data[start : start + length]

    def size(self, key: str) -> int:
        return len(self._found(key))

    def has(self, key: str) -> bool:
        split_key(key)
        return key in self._blobs

    def delete(self, key: str) -> None:
        split_key(key)
        with self._lock:
            self._blobs.pop(key, None)

    def keys(self, namespace: str = "") -> list[str]:
        check_namespace(namespace)
        with self._lock:
            return sorted(key for key in self._blobs if split_key(key)[0] == namespace)

    @contextmanager
    def open_mapped(self, key: str) -> Iterator[memoryview]:
        yield memoryview(self._found(key))

    def _found(self, key: str) -> bytes:
        split_key(key)
        data = self._blobs.get(key)
        if data is None:
            raise NotFound(f"There is no blob {key}.")
        return data
