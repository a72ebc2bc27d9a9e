"""What was asked for, in the words that people read: ``POST /shop/move``. Of the query nothing: it may hold secrets."""

from __future__ import annotations

from typing import Any

LINE_CHARACTERS = 200


def line_of(scope: dict[str, Any]) -> str:
    """Return the method and the path of a request, as it was written, of a long one the beginning."""
    line = f"{scope.get('method', 'GET')} {scope['raw_path'].decode('ascii', 'replace')}"
    return line if len(line) <= LINE_CHARACTERS else f"{line[: LINE_CHARACTERS - 1]}…"
