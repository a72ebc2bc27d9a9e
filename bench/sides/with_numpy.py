"""What workers of both sides import as they start."""

from __future__ import annotations

import os

try:
    import numpy as np
except ImportError:  # where the program runs that calls them
    np = None  # type: ignore[assignment]


def pid_here() -> int:
    """Return this process's id, once NumPy has worked here."""
    assert np is not None and int(np.ones(8).sum()) == 8
    return os.getpid()
