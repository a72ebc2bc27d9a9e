"""What a killed persistent server leaves in shared memory: removed by whoever outlives it, unless another came."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path


def remove_segments(segments: Path, *, lock: Path) -> bool:
    """Remove a server's directory of payload segments; False where a server holds the ``lock`` of its state directory.

    It is moved aside under the lock and deleted after it, so that a server which starts meanwhile is not turned away
    for as long as that takes.
    """
    aside = segments.with_name(f"{segments.name}.gone-{os.getpid()}")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = -1  # there is no state directory any more: no server can have taken it over
    try:
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segments.rename(aside)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    finally:
        if fd >= 0:
            os.close(fd)
    shutil.rmtree(aside, ignore_errors=True)
    return True
