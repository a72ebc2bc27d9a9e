"""An app's functions in the process of the test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stoker.client import session as sessions
from stoker.client.connection import SocketEndpoint
from stoker.testing.server import FakeServer

THREADS = 1000  # made as they are needed: calls that wait for calls of their own must not stop those from running


@contextmanager
def inline() -> Iterator[None]:
    """Run functions in threads of this process while the block lasts: no server, no worker, no image.

    All ways to call work as ever, from within `App.run`: arguments, results and exceptions travel through the same
    codec, so what cannot travel is found. Functions see what the test has patched. Options are checked but not acted
    on: no image, memory limit, timeout or retry. Cancelling leaves the code running. It is not to be nested.
    """
    with tempfile.TemporaryDirectory(prefix="stoker-") as place:
        server = FakeServer(Path(place), threads=THREADS)
        try:
            with sessions.redirected(SocketEndpoint(server.path)):
                yield
        finally:
            server.close()
