"""Tasks, in a module that is not installed anywhere."""

from __future__ import annotations

import os
import time
from pathlib import Path

FOREVER_SECONDS = 600.0


def square(x: int) -> int:
    return x * x


def pid(_: int = 0) -> int:
    return os.getpid()


def parent() -> int:
    """Return the process below which tasks run: the rank."""
    return os.getppid()


def scratch() -> str:
    return os.environ["STOKER_SCRATCH"]


def waits(began: str) -> None:
    Path(began).touch()
    time.sleep(FOREVER_SECONDS)


def dies_once(mark: str) -> str:
    """Take its process with it, the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), 9)
    return "alive"
