"""What a killed persistent server leaves: removed by whoever outlives it, unless another came."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = ("server.sock", "agent.sock", "agent.lock", "agent.ledger")  # of a server and its agent, while they live


def remove_files(run_dir: Path, *, lock: Path) -> None:
    """Remove what a server and its agent had in their runtime directory, once both have ended.

    Nothing where a server holds the ``lock`` of its state directory: it is all its own then.
    """
    with _held(lock) as is_free:
        for name in FILES if is_free else ():
            (run_dir / name).unlink(missing_ok=True)


def remove_segments(segments: Path, *, lock: Path) -> bool:
    """Remove a server's directory of payload segments; False where a server holds the ``lock`` of its state directory.

    It is moved aside under the lock and deleted after it, so that a server which starts meanwhile is not turned away
    for as long as that takes.
    """
    aside = segments.with_name(f"{segments.name}.gone-{os.getpid()}")
    with _held(lock) as is_free:
        if not is_free:
            return False
        try:
            segments.rename(aside)
        except FileNotFoundError:
            return True
    shutil.rmtree(aside, ignore_errors=True)
    return True


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Hold the lock of a state directory for a block, if no server does; tell whether that is so."""
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True  # there is no state directory any more: no server can have taken it over
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)
