"""The thread that writes to the store: what arrived while it wrote goes into the next transaction.

Writes are made in the order in which they were put in; the outcome of each comes back to the event loop. A job (a
payload to be deleted, a function to be kept) takes its place in the same order.

A store that refuses (its disk is full) says so to whoever waits. One that cannot be reached (its database is away) is
tried again until it can be: meanwhile nothing is acknowledged, and nothing is refused.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from stoker.errors import Fenced, StokerError
from stoker.store.base import RowsRefused, Store, StoreUnavailable, Write

log = logging.getLogger(__name__)
T = TypeVar("T")

ROWS_MAX = 4096  # of one transaction: bounds how long the first of them waits
AWAY_FIRST_S = 0.1  # between tries to reach a store that is away, doubled up to
AWAY_MAX_S = 2.0
AWAY_SAID_EVERY_S = 30.0  # in the log
LAST_TRIES_S = 5.0  # of a server that ends, for what it has not written yet


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that stand or fall together; ``prepare`` makes them in the writer's thread. Token 0: nobody waits."""

    token: int
    prepare: Callable[[], Sequence[Write]]


Group = list[tuple[int, Sequence[Write]]]


class StoreWriter:
    """See the module. ``done``, ``failed`` and ``over`` (nothing will be written any more) are called on the loop.

    ``failed`` gets the tokens, the reason, and whether it lies in the rows of this one batch (`RowsRefused`) or holds
    for all that is written now.
    """

    def __init__(
        self,
        store: Store,
        epoch: int,
        *,
        done: Callable[[list[int]], None],
        failed: Callable[[list[int], str, bool], None],
        over: Callable[[str], None],
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._done = done
        self._failed = failed
        self._over = over
        self.fenced = False  # another server has taken over the store
        self._queue: queue.SimpleQueue[Batch | Callable[[], None] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        self._give_up_at = 0.0
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def write(self, token: int, prepare: Callable[[], Sequence[Write]]) -> None:
        self._queue.put(Batch(token, prepare))

    def job(self, work: Callable[[], None]) -> None:
        """Have something done in the thread, after all that was put in before."""
        self._queue.put(work)

    async def result_of(self, work: Callable[[], T]) -> T:
        """Run a store's write in the thread, after all that was put in before, and return what it returned.

        Where the store cannot be reached it is run again, and may then find what it has written already.

        Raises:
            StokerError: what it raised.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def settle(value: T | None, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if error else future.set_result(value)  # type: ignore[arg-type]

        def job() -> None:
            try:
                value = work()
            except StoreUnavailable:
                raise  # whose turn it is waits for it
            except StokerError as error:
                self._loop.call_soon_threadsafe(settle, None, error)
            else:
                self._loop.call_soon_threadsafe(settle, value, None)

        self.job(job)
        return await future

    def close(self) -> None:
        """Finish what was put in, and end the thread. A store that cannot be reached is tried for some seconds more."""
        self._give_up_at = time.monotonic() + LAST_TRIES_S
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # a server whose store's thread is gone must not go on as if it wrote
            log.exception("the store's thread failed")
            self._loop.call_soon_threadsafe(self._over, f"its store's thread failed: {error}")

    def _work(self) -> None:
        while True:
            item = self._next()
            while isinstance(item, Batch):
                item = self._write_some(item)
            if item is None:
                return
            self._do(item)

    def _next(self) -> Batch | Callable[[], None] | None:
        """Return what comes next; while nothing does, have the store proved to be this term's still."""
        while True:
            try:
                return self._queue.get(timeout=self._store.proves_every or None)
            except queue.Empty:
                self._do(partial(self._store.prove, self._epoch))

    def _do(self, work: Callable[[], None]) -> None:
        try:
            self._until_reached(work)
        except Fenced as error:
            self.fenced = True
            self._loop.call_soon_threadsafe(self._over, str(error))
        except (StokerError, OSError) as error:
            log.error("a job of the store's thread failed: %s", error)

    def _write_some(self, first: Batch) -> Batch | Callable[[], None] | None:
        """Write this batch and those that wait behind it; return the first item that is none (or a later batch)."""
        group: Group = []
        count = 0
        item: Batch | Callable[[], None] | None = first
        idle = False
        while isinstance(item, Batch) and count < ROWS_MAX:
            try:
                rows = item.prepare()
                group.append((item.token, rows))
                count += len(rows)
            except StokerError as error:
                self._tell_failed([item.token], error)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                idle = True
                break
        self._commit(group)
        return self._next() if idle else item

    def _until_reached(self, work: Callable[[], None]) -> None:
        """Do something again and again until the store can be reached; all that is done here bears that.

        Raises:
            StoreUnavailable: the server ends, and the store has not come back.
        """
        wait, said = AWAY_FIRST_S, 0.0
        while True:
            try:
                return work()
            except StoreUnavailable as error:
                if self._closing.is_set() and time.monotonic() > self._give_up_at:
                    raise
                if time.monotonic() > said:
                    log.warning("the store is waited for, and nothing is acknowledged meanwhile: %s", error)
                    said = time.monotonic() + AWAY_SAID_EVERY_S
            if self._closing.is_set():
                time.sleep(AWAY_FIRST_S)
            else:
                self._closing.wait(wait)
            wait = min(2 * wait, AWAY_MAX_S)

    def _commit(self, group: Group) -> None:
        """Write a group; where rows of it are refused, find the batch they are of, so that the others are written."""
        parts = [group]
        while parts:
            part = parts.pop()
            tokens = [token for token, _ in part if token]
            try:
                if rows := [row for _, some in part for row in some]:
                    self._until_reached(partial(self._store.write, self._epoch, rows))
            except Fenced as error:
                self.fenced = True
                self._loop.call_soon_threadsafe(self._over, str(error))
                return
            except RowsRefused as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    self._tell_failed(tokens, error)
            except StokerError as error:
                self._tell_failed([token for some in [part, *reversed(parts)] for token, _ in some if token], error)
                return
            else:
                self._loop.call_soon_threadsafe(self._done, tokens)

    def _tell_failed(self, tokens: list[int], error: StokerError) -> None:
        log.error("the store refused what was to be written: %s", error)
        self._loop.call_soon_threadsafe(self._failed, tokens, str(error), isinstance(error, RowsRefused))
