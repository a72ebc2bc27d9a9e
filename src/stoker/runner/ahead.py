"""Reports what the last batch returned and reads the inputs of the next one, while one runs.

It is a thread that works while the main thread is in user code. For a batch on a device, and for whatever else lets go
of the interpreter, that is time which costs nothing: one batch begins as soon as the other has ended. Only inputs that
are made without any code of the user's are converted here: their code may not expect to be called beside itself. And
only what is small: the batch that runs has its timeout, which no other call's input may use up.

The lease connection has one reader at a time, the holder of ``_reading``: the thread, from when the main thread goes
into user code until that wants to read by itself, as it does when there is no full batch to go on with. So batches that
are there follow each other, and nothing is handed from thread to thread between them.

A function that holds the interpreter all the while, as pure Python does, leaves the thread no time: then results are
reported by the main thread before the next batch begins. So that is how it begins, too: beside each batch the thread is
looked for, by work that is none, and is left results from when it came in time until it did not.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stoker.runner.inline import Waiter
    from stoker.runner.worker import Worker


PATIENCE_SECONDS = 0.002  # in which the thread has to come to what is left to it


class Ahead:
    """See the module. ``count`` is how many inputs are read ahead at most."""

    def __init__(self, worker: Worker, waiter: Waiter, *, count: int) -> None:
        self._worker = worker
        self._waiter = waiter
        self._count = count
        self._reading = threading.Lock()
        self._turn = threading.Lock()  # free while there is one to be taken
        self._is_back = True
        self._left: deque[tuple[float, Callable[[], None]]] = deque()  # to be done, and since when
        self._is_in_time = False  # the thread was, for what it was left last
        self._is_given = False  # the main thread's: it has given the reading away
        self._reading.acquire()
        self._turn.acquire()
        threading.Thread(target=self._run, name="stoker-ahead", daemon=True).start()

    def begin(self) -> None:
        """Let the thread read: the main thread goes into user code."""
        if self._is_given:
            return
        self._is_back = False
        self._is_given = True
        self._reading.release()
        if self._turn.locked():
            self._turn.release()

    def end(self) -> None:
        """Return when the thread reads no more, and all that was left is done."""
        if not self._is_given:
            self.catch_up()
            return
        self._is_back = True
        if not self._reading.acquire(blocking=False):
            self._worker.wake()
            self._reading.acquire()
        self._is_given = False
        self.catch_up()

    def may_leave(self) -> bool:
        """Tell, once a batch, whether the thread has time for what it is left: see the module."""
        if not self._is_in_time:
            self.leave(lambda: None)
        return self._is_in_time

    def leave(self, work: Callable[[], None]) -> None:
        """Have something done beside the next batch, or before the main thread reads."""
        self._left.append((time.monotonic(), work))
        if self._is_given:
            self._worker.wake()

    def catch_up(self) -> float:
        """Do what is left to be done; return the seconds that the first of it has waited."""
        waited = 0.0
        while self._left:
            try:
                since, work = self._left.popleft()
            except IndexError:
                break  # the other thread was faster
            waited = waited or time.monotonic() - since
            work()
        return waited

    def _run(self) -> None:
        try:
            while True:
                self._turn.acquire()
                with self._reading:
                    self._catch_up_or_die()
                    while not self._is_back:
                        self._read()
                        self._catch_up_or_die()
        except BaseException as error:
            # What it has read may be lost with it. The server is told what is held when it is connected to again, and
            # leases the rest anew. The main thread reads by itself from now on.
            self._worker.lose_connection(f"its thread that reads ahead has failed: {error!r}")
            raise

    def _catch_up_or_die(self) -> None:
        try:
            self._note(self.catch_up())
        except BaseException as error:  # noqa: BLE001 - calls that are over would be held for ever
            self._worker.abandon(f"what a batch has returned was not reported: {error!r}")

    def _note(self, waited: float) -> None:
        """Take note of how long what was left has waited, if there was something."""
        if waited:
            self._is_in_time = waited <= PATIENCE_SECONDS

    def _read(self) -> None:
        self._waiter.wait()
        self._catch_up_or_die()  # whoever waits for an answer comes before whoever has just asked
        for attempt in self._worker.desk.first_waiting(self._count):
            if self._is_back:
                return
            if self._worker.read_ahead(attempt):
                time.sleep(0)  # or the main thread would wait for the interpreter until all of them are read
