"""What a blob's key may be, checked before it meets a path."""

from __future__ import annotations

import re

from stoker.errors import InvalidRequest

_KEY = re.compile(r"(?:([a-zA-Z0-9._-]+)/)?([a-zA-Z0-9._-]+)")
_LONGEST = 200
_MEANT_BY_PATHS = (".", "..")


def split_key(key: str) -> tuple[str, str]:
    """Return a key's namespace, empty if it has none, and its name.

    Raises:
        InvalidRequest: it is no key.
    """
    found = _KEY.fullmatch(key) if len(key) <= _LONGEST else None
    if found is None or found[1] in _MEANT_BY_PATHS or found[2] in _MEANT_BY_PATHS:
        raise InvalidRequest(
            f"{key[:_LONGEST]!r} is no blob key: use 1 to {_LONGEST} letters, digits, '.', '_' or '-', "
            "after at most one namespace and a '/'."
        )
    return found[1] or "", found[2]


def check_namespace(namespace: str) -> str:
    """Return the namespace if keys can be in it; the empty one holds those without.

    Raises:
        InvalidRequest: it is none.
    """
    if namespace and split_key(namespace)[0]:
        raise InvalidRequest(f"{namespace!r} is no blob namespace: it has a '/'.")
    return namespace


def check_range(start: int, length: int | None) -> None:
    """Refuse a range that begins or extends below zero.

    Raises:
        InvalidRequest: it does.
    """
    if start < 0 or (length is not None and length < 0):
        raise InvalidRequest(f"A range of a blob starts at 0 and goes forward, unlike {start}, {length}.")
