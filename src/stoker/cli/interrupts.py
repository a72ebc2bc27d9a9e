"""Ctrl-C: once cancels and cleans up, twice kills. What the server does without its command is said to go on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stoker.cli.screen import warn
from stoker.cli.server_requests import persistent_session
from stoker.errors import StokerError

INTERRUPTED_STATUS = 130
ASKING_SECONDS = 5.0  # who has interrupted a command does not wait for a server that hangs
WAITING = {"starting", "not ready"}  # states of a version that has not taken over yet


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


@contextmanager
def saying_that_it_goes_on(app: str) -> Iterator[None]:
    """Where a wait for a version of an app is interrupted, say that the server goes on with it, and what ends that."""
    try:
        yield
    except KeyboardInterrupt:
        warn(_how_it_goes_on(app))
        raise


def _how_it_goes_on(app: str) -> str:
    unknown = f"interrupted: `stoker apps history {app}` shows whether a version of {app} was made"
    try:
        rows = persistent_session().request("history", {"app": app}, timeout=ASKING_SECONDS)
    except (StokerError, TimeoutError):
        return unknown
    newest = max(rows, key=lambda row: int(row["version"]), default=None)
    if newest is None or newest["state"] not in WAITING:
        return unknown
    return (
        f"interrupted: version {newest['version']} of {app} is made, and takes over once it is ready, without this "
        f"command; `stoker apps history {app}` shows how it does, `stoker apps rollback {app}` calls it off"
    )
