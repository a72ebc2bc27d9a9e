"""Whose a prefix of a bucket is: two servers with different stores would sweep each other's payloads away."""

from __future__ import annotations

import json
import os
import secrets
import socket
from pathlib import Path

from stoker.blobs.base import BlobStore
from stoker.errors import NotFound, StoreError

KEY = "owner/server"
_FILE = "store.id"


def store_id(state_dir: Path) -> str:
    """Return the identity of the store in a state directory, which is made with it."""
    path = state_dir / _FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(secrets.token_hex(16))
        draft.replace(path)
        return path.read_text().strip()


def claim(blobs: BlobStore, owner: str, *, place: str, state_dir: Path) -> None:
    """Take a prefix for the store with this identity; it stays taken, so that a later term finds its payloads.

    Raises:
        StoreError: it is another store's.
    """
    try:
        holder = json.loads(blobs.get(KEY))
        held_by, said = str(holder["store"]), str(holder["said"])
    except NotFound:
        said = f"{socket.gethostname()}:{state_dir}"
        blobs.put(KEY, [json.dumps({"store": owner, "said": said}).encode()])
        return
    except (ValueError, KeyError, TypeError):
        held_by, said = "", "somebody who has written something else there"
    if held_by != owner:
        raise StoreError(
            f"The blobs in {place} belong to another server ({said}), which would take this one's for orphans. Give "
            f"this server a prefix of its own; if that one is gone for good, delete the blob {KEY} there."
        )
