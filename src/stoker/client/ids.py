"""Ids that a client makes up: of its session, its calls and its runs. They ascend with time."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, in ascending order


def stamped_id(prefix: str) -> str:
    """Return ``prefix`` + 10 characters of milliseconds + 10 random ones, all of base 32."""
    return prefix + _base32(time.time_ns() // 1_000_000, 10) + _base32(secrets.randbits(50), 10)


def call_ids(session_id: str) -> Callable[[], str]:
    """Return a function that gives each call of a session its id; safe from any thread."""
    counter = itertools.count(1)
    return lambda: f"{session_id}.{next(counter):08x}"


def _base32(value: int, length: int) -> str:
    return "".join(_ALPHABET[(value >> (5 * place)) & 31] for place in reversed(range(length)))
