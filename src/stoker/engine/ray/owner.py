"""Whose groups and agents those on a cluster are: a name for one server's state, the same after a restart."""

from __future__ import annotations

import secrets
from pathlib import Path

OWNER_FILE = "ray-owner"


def owner_of(state_dir: Path) -> str:
    """Return the name of whoever works on this directory; it is made when there is none."""
    path = state_dir / OWNER_FILE
    try:
        if name := path.read_text().strip():
            return name
    except FileNotFoundError:
        pass
    name = secrets.token_hex(4)
    draft = path.with_suffix(".partial")
    draft.write_text(name)
    draft.replace(path)
    return name
