"""Small JSON documents that are replaced whole, often, by processes that may be killed at any point.

A document within one page is written over the old one: a kill cannot cut a write within a page, and what it leaves
behind the new document is not read. A larger one is renamed into place, which costs milliseconds on some disks. Nothing
is synced: all this is about processes, which do not survive a crash of the machine either.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PAGE_BYTES = 4096
_DECODER = json.JSONDecoder()


def write_state(path: Path, document: Any) -> None:
    """Replace the document at ``path``. One writer at a time."""
    data = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    if len(data) > PAGE_BYTES:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(data)
        fresh.replace(path)
        return
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def read_state(path: Path) -> Any:
    """Return the document at ``path``, None where there is none.

    Raises:
        ValueError: what is there is no document.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    return _DECODER.raw_decode(text)[0]
