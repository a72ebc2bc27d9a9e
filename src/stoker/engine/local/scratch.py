"""Directories for what workers put on disk while they run: a worker's goes with it, however it ended.

Their paths are short, because programs that a worker starts put sockets there. A worker is told of its own by
`SCRATCH_VARIABLE`; it is made by whoever first wants one.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from pathlib import Path


def sweep(root: Path, *, keep: Container[str] = ()) -> None:
    """Remove the directories of workers that are gone, and the one above them where none is kept."""
    if not root.is_dir():
        return
    for path in root.iterdir():
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
    try:
        root.rmdir()
    except OSError:
        pass  # a worker that lives has one
