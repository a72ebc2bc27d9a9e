"""What was asked for, as people read it. Of the query nothing: it may hold secrets."""

from __future__ import annotations

from typing import Any

PATH_CHARACTERS = 200  # of a longer one the beginning


def asked_of(scope: dict[str, Any]) -> tuple[str, str]:
    """Return the method and the path of a request, as it was written."""
    return scope.get("method", "GET"), scope["raw_path"][:PATH_CHARACTERS].decode("ascii", "replace")
