"""Blobs named by their content: ``bundle/<sha256>``. What is read back is what was put, or an error."""

from __future__ import annotations

import hashlib
import re

from stoker.blobs.base import BlobStore
from stoker.errors import InvalidRequest, NotFound, StoreError

_DIGEST = re.compile(r"[0-9a-f]{64}")


def put_addressed(blobs: BlobStore, namespace: str, data: bytes | memoryview) -> str:
    """Store bytes under their SHA-256 and return it, as hex. Bytes that are there already are not written again."""
    digest = hashlib.sha256(data).hexdigest()
    key = addressed_key(namespace, digest)
    if not _is_there(blobs, key, memoryview(data).nbytes):
        blobs.put(key, [data])
    return digest


def get_checked(blobs: BlobStore, namespace: str, digest: str) -> bytes:
    """Return the bytes with this SHA-256.

    Raises:
        NotFound: they are not there.
        StoreError: what is there has other content: the disk, or somebody, changed it.
    """
    key = addressed_key(namespace, digest)
    data = blobs.get(key)
    if hashlib.sha256(data).hexdigest() != digest:
        raise StoreError(f"The blob {key} is corrupt: its bytes have another digest. Delete it and send it again.")
    return data


def addressed_key(namespace: str, digest: str) -> str:
    """Return the key of the bytes with this SHA-256.

    Raises:
        InvalidRequest: it is no digest.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest(f"{digest[:80]!r} is no SHA-256: 64 of 0-9 and a-f.")
    return f"{namespace}/{digest}"


def _is_there(blobs: BlobStore, key: str, size: int) -> bool:
    """A blob cut short is written again."""
    try:
        return blobs.size(key) == size
    except NotFound:
        return False
