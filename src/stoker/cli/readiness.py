"""The line by which a server says that it listens, or why it does not."""

from __future__ import annotations

import json
import select
import time
from typing import Any, BinaryIO

from stoker.errors import from_wire


def read_readiness(pipe: BinaryIO, *, timeout: float) -> dict[str, Any] | None:
    """Return what a server says when it listens; None if it ended, or said nothing in time.

    Raises:
        StokerError: the server's own reason why it does not start.
    """
    line = b""
    deadline = time.monotonic() + timeout
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        chunk = pipe.read(65536)
        if not chunk:
            return None
        line += chunk
    answer: dict[str, Any] = json.loads(line)
    if error := answer.get("error"):
        raise from_wire(str(error.get("type_name", "")), str(error.get("message", "")))
    return answer
