"""The `BlobStore` seam: bytes under keys. Content-addressed ones (bundles) and payload files share it.

A key is 1 to 200 characters of ``[a-zA-Z0-9._-]`` with at most one ``/`` (a namespace, such as ``bundle/<sha256>``):
anything else is refused before it meets a path.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol


class BlobStore(Protocol):
    """See the module. Methods raise `NotFound` for a missing key and `StoreError` for a disk or service that fails."""

    def put(self, key: str, parts: Iterable[bytes | memoryview]) -> int:
        """Store the concatenated parts, all or nothing, durable on return; the size. Replaces what was there."""

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return a range of a blob."""

    def size(self, key: str) -> int:
        """Return a blob's size in bytes."""

    def has(self, key: str) -> bool:
        """Tell whether the key is there."""

    def delete(self, key: str) -> None:
        """Remove a blob; a missing one is no error."""

    def keys(self, namespace: str = "") -> list[str]:
        """Return the keys of a namespace, sorted."""

    def open_mapped(self, key: str) -> AbstractContextManager[memoryview]:
        """Return the blob's bytes, mapped read-only where the implementation can, for as long as the block runs."""
