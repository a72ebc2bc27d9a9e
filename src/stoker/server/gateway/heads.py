"""What the headers of a request say to the gateway itself: by which name it was asked, and until when."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from stoker.errors import InvalidOption
from stoker.quantities import parse_duration
from stoker.server.gateway.problems import Problem

_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
DEADLINE = b"x-stoker-deadline"


@lru_cache(maxsize=256)  # clients say the same few
def check_host(given: bytes, *, is_local: bool) -> None:
    """A page of somebody else's must not reach a server that listens for this machine by a name of its own.

    Raises:
        Problem: the name is none, or ``is_local`` and it is none of this machine's.
    """
    found = _HOST.fullmatch(given.decode("latin-1"))
    if found is None:
        raise Problem(400, "BadRequest", "The request names no host.", closes=True)
    host = found["host"].lower()
    if is_local and host not in _LOCAL and not host.endswith(".localhost"):
        raise Problem(
            421, "BadRequest", f"This server answers to localhost, not to {host:.100}. Ask it by its own address."
        )


def deadline_of(headers: dict[bytes, bytes]) -> float | None:
    """Return in how many seconds the client wants its answer; None where it does not say.

    Raises:
        Problem: what it says is no duration.
    """
    given = headers.get(DEADLINE)
    return None if not given else _seconds(given.decode("latin-1"))


@lru_cache(maxsize=256)
def _seconds(given: str) -> float:
    try:
        seconds = parse_duration(float(given) if re.fullmatch(r"[0-9.]+", given) else given, option="X-Stoker-Deadline")
    except (InvalidOption, ValueError):
        raise Problem(400, "BadRequest", f"X-Stoker-Deadline: {given!r:.40} is no duration, as 2.5 or 500ms.") from None
    if not math.isfinite(seconds):
        raise Problem(400, "BadRequest", "X-Stoker-Deadline is too long.")
    return seconds
