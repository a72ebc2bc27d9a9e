"""Where a rank's processes keep their files: in a directory that its agent removes, whatever ends the rank."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stoker.paths import SCRATCH_VARIABLE, private_dir


@contextmanager
def scratch() -> Iterator[Path]:
    """Have this worker's own directory for a block."""
    chosen = os.environ.get(SCRATCH_VARIABLE)
    place = Path(chosen) if chosen else Path(tempfile.mkdtemp(prefix="stoker-"))
    private_dir(place.parent)
    private_dir(place)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
