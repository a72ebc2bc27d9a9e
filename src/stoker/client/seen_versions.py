"""Which versions of an app somebody saw before asking for a change: it is for these, and for no later ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def seen_versions(history: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return which version is the current one in an app's history, and which stands beside it; 0 for none."""
    rows = [*history]
    current = next((row["version"] for row in rows if row.get("current")), 0)
    beside = next((row["version"] for row in rows if row["state"] in {"canary", "shadow"}), 0)
    return {"current": current, "beside": beside}
