"""Ctrl-C: once cancels and cleans up, twice kills."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED_STATUS = 130


@contextmanager
def two_step_interrupts(doing: str = "cancelling") -> Iterator[None]:
    """While the block runs, the first Ctrl-C raises `KeyboardInterrupt`, the second ends this process at once.

    ``doing`` is what the first one begins, for people.

    Calls are cancelled by whoever waits for them, on the way of the exception out of the program. After the second,
    the program's own server sees that its program is gone, and ends everything.
    """
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os.write(2, b"\nstoker: killed\n")
            os._exit(INTERRUPTED_STATUS)
        asked = True
        print(f"\nstoker: {doing}; Ctrl-C again kills", file=sys.stderr, flush=True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
