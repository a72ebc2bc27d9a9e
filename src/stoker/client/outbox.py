"""Calls leave in batches: as large as they come together, as small as they must be not to wait."""

from __future__ import annotations

import threading
import time

from stoker.client.calls import Pending
from stoker.client.session import Session

BATCH_MAX_CALLS = 128  # past it the cost of a frame is a small part of its calls' own
BATCH_MAX_BYTES = 1 << 20
COMPANY_MAX_SECONDS = 0.002  # for which a call may wait for others; a round trip takes a tenth of it


class Batch:
    """Collects calls of one route. The first leaves at once, then two together, then four, …

    One that no other follows in time is sent by the flusher, and the next leaves at once again.
    """

    def __init__(self, session: Session, flusher: Flusher) -> None:
        self._session = session
        self._flusher = flusher
        self._lock = threading.Lock()
        self._calls: list[Pending] = []
        self._bytes = 0
        self._size = 1
        self._started = 0.0
        self._watched = False

    def add(self, pending: Pending) -> None:
        with self._lock:
            if not self._calls:
                self._started = time.monotonic()
            self._calls.append(pending)
            self._bytes += len(pending.data)
            if len(self._calls) >= self._size or self._bytes >= BATCH_MAX_BYTES:
                self._size = min(2 * self._size, BATCH_MAX_CALLS)
                self._send()
                return
            watch, self._watched = not self._watched, True
        if watch:
            self._flusher.watch(self)

    def flush(self) -> None:
        """Send what is there."""
        with self._lock:
            self._send()

    def flush_if_old(self, now: float) -> bool:
        """Send what waits too long for company; true while there is something that may have to be sent later."""
        with self._lock:
            if self._calls and now - self._started >= COMPANY_MAX_SECONDS:
                self._size = 1
                self._send()
            self._watched = bool(self._calls)
            return self._watched

    def _send(self) -> None:
        calls, self._calls, self._bytes = self._calls, [], 0
        if calls:
            self._session.submit(calls)


class Flusher:
    """The thread that sends batches whose filler is held up by its own inputs. It ends when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: list[Batch] = []
        self._running = False

    def watch(self, batch: Batch) -> None:
        with self._lock:
            self._batches.append(batch)
            start, self._running = not self._running, True
        if start:
            threading.Thread(target=self._run, name="stoker-flusher", daemon=True).start()

    def _run(self) -> None:
        idle = 0
        while True:
            time.sleep(COMPANY_MAX_SECONDS)
            with self._lock:
                batches, self._batches = self._batches, []
                idle = 0 if batches else idle + 1
                if idle > 50:
                    self._running = False
                    return
            now = time.monotonic()
            kept = [batch for batch in batches if batch.flush_if_old(now)]
            with self._lock:
                self._batches += kept
