"""Users' source on this node's disk: bundles unpacked once, functions by value as files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.images.archive import unpack_once
from stoker.types import CodeRef

NAMESPACE = "bundle"


def names_of(code: CodeRef) -> list[str]:
    """Return the names under which a function's code lies in its directory, to be held while it is in use."""
    return [name for name in (code.bundle, f"{code.by_value}.pickle" if code.by_value else "") if name]


def ensure_code(code: CodeRef, *, blobs: BlobStore, root: Path) -> tuple[str, str]:
    """Return (directory of the bundle, file of the function by value), each empty where there is none.

    Safe from several threads and processes at once: what is there is whole.

    Raises:
        NotFound: the blob is not in the store.
        InvalidRequest: the bundle is damaged.
    """
    directory = _unpacked(code.bundle, blobs, root / code.bundle) if code.bundle else ""
    by_value = _written(code.by_value, blobs, root / f"{code.by_value}.pickle") if code.by_value else ""
    return directory, by_value


def _unpacked(digest: str, blobs: BlobStore, place: Path) -> str:
    if not place.is_dir():
        with blobs.open_mapped(f"{NAMESPACE}/{digest}") as archive:
            unpack_once(archive, place)
    return str(place)


def _written(digest: str, blobs: BlobStore, place: Path) -> str:
    if not place.exists():
        data = blobs.get(f"{NAMESPACE}/{digest}")
        fd, draft = tempfile.mkstemp(prefix=".making-", dir=place.parent)
        with os.fdopen(fd, "wb") as out:
            out.write(data)
        Path(draft).replace(place)
    return str(place)
