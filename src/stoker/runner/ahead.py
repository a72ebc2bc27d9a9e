"""Reports what the last batch returned and reads the inputs of the next one, while one runs.

It is a thread that works while the main thread is in user code. For a batch on a device, and for whatever else lets go
of the interpreter, that is time which costs nothing: one batch begins as soon as the other has ended. Only inputs that
are made without any code of the user's are converted here: their code may not expect to be called beside itself. And
only what is small: the batch that runs has its timeout, which no other call's input may use up.

The lease connection has one reader at a time, the holder of ``_reading``: the main thread, which gives it away for as
long as it is in user code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stoker.runner.inline import Waiter
    from stoker.runner.worker import Worker


class Ahead:
    """See the module. ``count`` is how many inputs are read ahead at most."""

    def __init__(self, worker: Worker, waiter: Waiter, *, count: int) -> None:
        self._worker = worker
        self._waiter = waiter
        self._count = count
        self._reading = threading.Lock()
        self._turn = threading.Lock()  # free while there is one to be taken
        self._is_back = True
        self._left: Callable[[], None] | None = None  # to be done
        self._is_given = False  # the main thread's: it has given the reading away
        self._reading.acquire()
        self._turn.acquire()
        threading.Thread(target=self._run, name="stoker-ahead", daemon=True).start()

    def begin(self) -> None:
        """Let the thread read: the main thread goes into user code."""
        if self._is_given:
            return  # it was interrupted on its way back
        self._is_back = False
        self._is_given = True
        self._reading.release()
        if self._turn.locked():
            self._turn.release()

    def end(self) -> None:
        """Return when the thread reads no more."""
        self._is_back = True
        if not self._reading.acquire(blocking=False):
            self._worker.wake()
            self._reading.acquire()
        self._is_given = False

    def leave(self, work: Callable[[], None]) -> None:
        """Have something done once the main thread is in user code again, or has nothing to run: see `catch_up`."""
        self.catch_up()
        self._left = work

    def catch_up(self) -> None:
        """Do what is left to be done; of whoever reads."""
        work, self._left = self._left, None
        if work is not None:
            work()

    def _run(self) -> None:
        try:
            while True:
                self._turn.acquire()
                with self._reading:
                    self._catch_up_or_die()
                    while not self._is_back:
                        self._read()
        except BaseException as error:
            # What it has read may be lost with it. The server is told what is held when it is connected to again, and
            # leases the rest anew. The main thread reads by itself from now on.
            self._worker.lose_connection(f"its thread that reads ahead has failed: {error!r}")
            raise

    def _catch_up_or_die(self) -> None:
        try:
            self.catch_up()
        except BaseException as error:  # noqa: BLE001 - calls that are over would be held for ever
            self._worker.abandon(f"what a batch has returned was not reported: {error!r}")

    def _read(self) -> None:
        self._waiter.wait()
        for attempt in self._worker.desk.first_waiting(self._count):
            if self._is_back:
                return
            if self._worker.read_ahead(attempt):
                time.sleep(0)  # or the main thread would wait for the interpreter until all of them are read
