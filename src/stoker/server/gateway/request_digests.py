"""What tells a request with an Idempotency-Key from another one with that key: a digest of what the call is made of.

It is of the method, the path, the query, the media type and the body, whichever connection or trace it came with. Parts
of a form are told apart by a boundary that clients draw anew each time: it does not count.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from stoker.protocol.web_calls import decode_request

PIECE_BYTES = 1 << 20  # hashed at once
_BOUNDARY = re.compile(r";\s*boundary=(?:\"([^\"]+)\"|([^\s;]+))", re.IGNORECASE)


def digest_of(payload: bytes | mmap.mmap) -> str:
    """Return the digest of a request that is encoded as a payload.

    Raises:
        ProtocolError: it is none.
    """
    request = decode_request(memoryview(payload))
    start = len(payload) - len(request.body)
    media_type = next((value for name, value in request.headers if name == "content-type"), "")
    found = _BOUNDARY.search(media_type) if media_type.lower().startswith("multipart/") else None
    boundary = (found[1] or found[2]) if found else ""
    told = [request.method, request.path, request.query, media_type.replace(boundary, "") if boundary else media_type]
    digest = hashlib.sha256("".join(f"{len(text)}:{text}" for text in told).encode("utf-8", "surrogateescape"))
    for piece in _pieces(payload, start, boundary.encode("latin-1", "replace")):
        digest.update(piece)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the digest of a request that lies in a file; beside the loop, as it is read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return digest_of(data)


def _pieces(payload: bytes | mmap.mmap, start: int, boundary: bytes) -> Iterator[bytes]:
    """Yield what follows ``start``, in pieces, but for the boundary wherever it stands."""
    while True:
        found = payload.find(boundary, start) if boundary else -1
        end = found if found >= 0 else len(payload)
        for at in range(start, end, PIECE_BYTES):
            yield payload[at : min(end, at + PIECE_BYTES)]
        if found < 0:
            return
        yield b"\0boundary\0"
        start = found + len(boundary)
