"""Runs a class's check every so often, beside the calls, and tells the server how each one ended.

A plain check runs in a thread of its own, so that it is answered however busy the worker is with a call; an async one
on the event loop that runs the calls. The control thread says so when a check does not return in time. Where nothing
of Python runs any more, nobody here says anything: the server counts that as failures too.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from stoker.protocol.messages import Checked
from stoker.runner.callables import Check
from stoker.runner.loading import PACKAGE_DIR


class Unhealthy(Exception):
    """A check has returned ``False``."""


class Checks:
    """See the module. ``say`` sends to the server; ``want`` asks the control thread to look at `due` by a time."""

    def __init__(self, check: Check, *, say: Callable[[Any], None], want: Callable[[float], None]) -> None:
        self._check = check
        self._say = say
        self._want = want
        self._lock = threading.Lock()
        self._late_at: float | None = None  # when the check that runs is over its time, or over it once more
        self._is_late = False
        self._ended = threading.Event()
        self._thread = 0

    def first(self) -> Any:
        """Run the check before the worker takes calls: as often as it may fail in a row, until it passes.

        Returns a coroutine where it is async, which the worker's loop runs.
        """
        return self._first_async() if self._check.is_async else self._first()

    def _first(self) -> None:
        for left in range(self._check.spec.failures - 1, -1, -1):
            try:
                _judge(self._check.call())
            except Exception:
                if not left:
                    raise
                time.sleep(self._check.spec.every)
            else:
                return

    async def _first_async(self) -> None:
        for left in range(self._check.spec.failures - 1, -1, -1):
            try:
                _judge(await asyncio.wait_for(self._check.call(), self._check.spec.timeout))
            except Exception:
                if not left:
                    raise
                await asyncio.sleep(self._check.spec.every)
            else:
                return

    def start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Go on in a thread; ``loop`` is where coroutines run."""
        threading.Thread(target=self._run, args=(loop,), name="stoker-health", daemon=True).start()

    def end(self) -> None:
        """Check no more: the worker is about to end."""
        self._ended.set()
        with self._lock:
            self._late_at = None

    def _run(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._thread = threading.get_ident()
        spec = self._check.spec
        while not self._ended.wait(spec.every):
            with self._lock:
                self._late_at, self._is_late = time.monotonic() + spec.timeout, False
            self._want(self._late_at)
            error = self._outcome(loop)
            with self._lock:
                was_late, self._late_at = self._is_late, None
            if not was_late and not self._ended.is_set():
                self._say(Checked(error))

    def _outcome(self, loop: asyncio.AbstractEventLoop | None) -> str:
        """Run the check once; return what is wrong."""
        try:
            found = self._check.call()
            if inspect.iscoroutine(found):
                if loop is None:
                    found.close()
                    return "it is async, and its worker has no event loop"
                found = asyncio.run_coroutine_threadsafe(found, loop).result()
            _judge(found)
        except BaseException as error:  # noqa: BLE001 - user code may raise anything; that is what is to be told
            if not isinstance(error, Unhealthy):
                print(f"stoker: the check {self._check.name}() of this worker failed:", file=sys.stderr)
                traceback.print_exception(type(error), error, error.__traceback__)
            return f"{self._check.name}() {described(error)}"
        return ""

    def due(self, now: float) -> float | None:
        """Say so if the check that runs is over its time; return when to look again. For the control thread."""
        spec = self._check.spec
        with self._lock:
            if self._late_at is None or now < self._late_at:
                return self._late_at
            self._late_at, self._is_late = now + spec.every, True
            due = self._late_at
        self._say(Checked(f"{self._check.name}() has not returned within {spec.timeout:g} s{self._where()}"))
        return due

    def _where(self) -> str:
        if self._check.is_async:
            return ": something keeps the event loop busy, or it waits"
        frame = sys._current_frames().get(self._thread)
        stack = [one for one in traceback.extract_stack(frame) if not one.filename.startswith(PACKAGE_DIR)]
        places = [f"{one.filename}:{one.lineno} in {one.name}" for one in stack if "threading" not in one.filename]
        return f"; it is at {places[-1]}" if places else ""


def described(error: BaseException) -> str:
    """Return what a failed check did, in a few words."""
    if isinstance(error, Unhealthy):
        return "returned False"
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)) and not str(error):
        return "has not returned in time"
    return f"raised {type(error).__name__}: {error}"


def _judge(outcome: Any) -> None:
    if outcome is False:
        raise Unhealthy
