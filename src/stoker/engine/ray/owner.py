"""Whose groups and agents those on a cluster are: a name for one server's state, the same after a restart.

With a store that several machines reach it is the store's own, so that a standby finds what the first server left on
the cluster: it ends those agents, which look for a server that is gone, and has others in their place.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

OWNER_FILE = "ray-owner"
NODES_FILE = "ray-nodes.json"  # where workers may run, until a server has ended in order
OWNER_CHARACTERS = 12


def owner_of(state_dir: Path, identity: str = "") -> str:
    """Return the name of whoever works on the store with this identity, or else on this directory, made if need be."""
    if identity:
        return hashlib.sha256(identity.encode()).hexdigest()[:OWNER_CHARACTERS]
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
