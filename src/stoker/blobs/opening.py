"""Which `BlobStore` an address asks for, and whether that works: tried before anything is entrusted to it."""

from __future__ import annotations

import secrets
from dataclasses import replace

from stoker import paths
from stoker.blobs.base import BlobStore
from stoker.blobs.disk import DiskBlobStore
from stoker.blobs.location import BlobLocation
from stoker.blobs.node_cache import NodeCache
from stoker.errors import InvalidRequest, NotFound, StoreError

PROBES = "probe"  # the namespace of what is written to see whether that can be
CHECK_PATIENCE_SECONDS = 5.0  # whoever starts a server waits for the answer


def open_blobs(address: str, *, patience: float | None = None) -> BlobStore:
    """Open the store at an address; the empty one is this machine's disk.

    Raises:
        InvalidOption: the address cannot be read.
        InvalidRequest: it needs a package that is not installed.
        StoreError: a directory on this machine cannot be used.
    """
    if not address:
        return DiskBlobStore(paths.blobs())
    location = BlobLocation.parse(address)
    if patience is not None:
        location = replace(location, patience=min(patience, location.patience))
    try:
        from stoker.blobs.bucket import Bucket
    except ImportError as error:
        raise InvalidRequest(
            f"Blobs at {location.place} need the package obstore, which cannot be imported here ({error}). Install it: "
            "pip install 'stoker[objects]'."
        ) from error
    from stoker.blobs.objects import ObjectBlobStore

    return ObjectBlobStore(Bucket(location), NodeCache(paths.blob_cache(), max_bytes=location.cache_bytes))


def check_blobs(address: str) -> None:
    """Write, read, list and delete a blob at an address, so that what will not work is known now.

    Raises:
        StoreError: it does not work; the message says what failed, and what to do.
        InvalidRequest: as `open_blobs`.
    """
    store = open_blobs(address, patience=CHECK_PATIENCE_SECONDS)
    key, content = f"{PROBES}/{secrets.token_hex(8)}", secrets.token_bytes(16)
    store.put(key, [content])
    try:
        if store.get(key) != content or key not in store.keys(PROBES):
            raise StoreError(
                f"The blob store {BlobLocation.parse(address).place} does not give back what was written: {key}. Is "
                "something between that caches, or another program that writes there?"
            )
    except NotFound as error:
        raise StoreError(f"What was just written is not there ({error}) Check the address and its options.") from error
    finally:
        store.delete(key)
