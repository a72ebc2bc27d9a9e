"""W3C Trace Context: the ``traceparent`` that says which trace something belongs to, and what of it it is a part of.

    00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
    version, the trace, the span that this is a part of, flags (1: it is recorded)

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_SAMPLED = 1
MAX_CHARACTERS = 512  # of one that comes; a later version may say more than this one


class Trace(NamedTuple):
    """What a ``traceparent`` says: ids in hex, and whether who made it records the trace."""

    trace_id: str
    span_id: str
    sampled: bool = False

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"


def parse_trace(text: str) -> Trace | None:
    """Read a ``traceparent``; None where it is malformed. What a later version of it adds is left out."""
    found = _PARENT.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return Trace(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))


def checked_trace(text: str) -> str:
    """Return a ``traceparent`` as this version writes it; empty where it is malformed."""
    found = parse_trace(text)
    return "" if found is None else str(found)
