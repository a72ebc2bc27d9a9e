"""Ending a build from outside: the program it runs is killed with all that this started, and nothing more is run.

A build works in a thread, which cannot be interrupted; what it waits for can.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stoker.errors import ImageBuildError


class BuildHalted(ImageBuildError):
    """A build was ended before it was done; what there was of it is removed."""


class Halt:
    """One build's way to be ended, from any thread."""

    def __init__(self) -> None:
        self.reason = ""
        self._lock = threading.Lock()
        self._group = 0

    def order(self, reason: str) -> None:
        """End the build now: once this returns, it starts no further program."""
        with self._lock:
            self.reason = self.reason or reason
            self._kill()

    def check(self) -> None:
        """Go on unless the build is to end.

        Raises:
            BuildHalted: it is; the message says why.
        """
        if self.reason:
            raise BuildHalted(f"The image was not built to its end: {self.reason}.")

    @contextmanager
    def running(self, group: int) -> Iterator[None]:
        """Have a process group killed when the build is to end; it is reaped only after the block."""
        with self._lock:
            self._group = group
            if self.reason:
                self._kill()
        try:
            yield
        finally:
            with self._lock:
                self._group = 0

    def _kill(self) -> None:
        if self._group:
            try:
                os.killpg(self._group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # it has ended by itself


class Wish:
    """One caller's wish for an environment. When all who wished for it have withdrawn, its build is ended."""

    def __init__(self) -> None:
        self.withdrawn = False
        self._told: Callable[[], None] = lambda: None

    def withdraw(self) -> None:
        self.withdrawn = True
        self._told()

    def tell(self, told: Callable[[], None]) -> None:
        """Have somebody told of the withdrawal; at once where it has happened already."""
        self._told = told
        if self.withdrawn:
            told()
