"""`map`: many calls, pulled lazily, their results streamed, memory bounded whatever the length.

A feeder thread pulls the inputs and submits them, so that inputs that are slow to come do not hold up results. Calls
outstanding and results unread together stay within the window the server grants, and within a limit of bytes: a slow
consumer stops the feeder.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from stoker.client.calls import FAILED_HERE, Pending, Route, Settled, Waiter, error_of, opened
from stoker.client.frames import add_note, trimmed
from stoker.client.mailbox import LoopBell
from stoker.client.notices import Progress
from stoker.client.outbox import Batch, Flusher
from stoker.client.session import Session
from stoker.protocol.frames import Buffer
from stoker.protocol.payload import encode_call
from stoker.types import Outcome

T_co = TypeVar("T_co", covariant=True)

OUTSTANDING_MAX_BYTES = 256 << 20  # of inputs that are not settled; they are kept for sending them again
NO_KEYWORDS: dict[str, Any] = {}
UNREAD = "its map was left before its end"  # why a call is cancelled, for people
INTERRUPTED = "the program that maps was interrupted, by Ctrl-C"

_flusher = Flusher()


class MapRun(Waiter):
    """One map under way. Three threads meet here: the feeder, the reader (`settle`) and the consumer (all the rest).

    Each counter has one writer: ``_submitted`` and ``_bytes_sent`` the feeder, ``_bytes_settled`` the reader,
    ``_delivered`` the consumer.
    """

    __slots__ = (
        "_arrived", "_batch", "_bell", "_bytes_sent", "_bytes_settled", "_closed", "_delivered", "_ended_by",
        "_exhausted", "_failed", "_failed_at", "_input_error", "_inputs", "_open", "_ordered", "_progress", "_queue",
        "_return_exceptions", "_room", "_route", "_session", "_starved", "_submitted", "_total", "_unshown",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        route: Route,
        inputs: Iterable[tuple[Any, ...]],
        *,
        ordered: bool,
        return_exceptions: bool,
        bell: LoopBell | None = None,
        total: int | None = None,
    ) -> None:
        super().__init__()
        self._session = session
        self._route = route
        self._inputs = inputs
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._bell = bell
        self._total = total
        self._batch = Batch(session, _flusher)
        self._open: dict[int, Pending] = {}
        self._arrived: dict[int, Settled] = {}
        self._queue: deque[tuple[int, Settled]] = deque()
        self._submitted = self._delivered = self._bytes_sent = self._bytes_settled = 0
        self._failed: dict[int, str] = {}  # ids of calls whose errors were not read yet
        self._failed_at: int | None = None
        self._ended_by = UNREAD
        self._input_error: BaseException | None = None
        self._exhausted = self._closed = self._starved = False
        self._room = threading.Event()
        self._unshown: set[int] = set()  # results whose calls have printed what may not be shown yet
        self._progress = Progress(route.label)

    def start(self) -> None:
        context = copy_context()
        name = f"stoker-map-{self._route.label}"
        threading.Thread(target=context.run, args=(self._feed,), name=name, daemon=True).start()

    def notify(self) -> None:
        super().notify()
        if self._bell is not None:
            self._bell.ring()

    # The sink, on the reader's thread.

    def settle(self, pending: Pending, settled: Settled) -> None:
        index = pending.tag
        self._open.pop(index, None)
        if settled.printed:
            self._unshown.add(index)
        self._bytes_settled += pending.size
        if self._ordered:
            self._arrived[index] = settled
        else:
            self._queue.append((index, settled))
        if settled.outcome != Outcome.VALUE:
            self._failed[index] = pending.id
            if not self._return_exceptions:
                self._note_failure(index)
        if not self._ordered or index == self._delivered:
            self.notify()
        if self._starved and self._has_room():
            self._room.set()

    def accept(self, pending: Pending) -> None:
        return None

    def items(self, pending: Pending, first: int, parts: list[Buffer]) -> None:
        return None

    def _note_failure(self, index: int) -> None:
        """Cancel all that nobody will read now: in an ordered map what comes before the failure is still delivered."""
        if self._failed_at is None or index < self._failed_at:
            self._failed_at = index
            least = index if self._ordered else -1
            self._session.reader.later(lambda: self._cancel_after(least))

    def _cancel_after(self, index: int) -> None:
        beyond = [pending for at, pending in list(self._open.items()) if at > index]
        self._session.abandon(beyond, reason="sibling" if self._failed_at is not None else self._ended_by)

    # The feeder.

    def _feed(self) -> None:
        try:
            for args in self._inputs:
                if self._stopped:
                    break
                self._submit(args)
            self._batch.flush()
        except BaseException as error:  # noqa: BLE001 - whatever the user's iterator raises goes to the consumer
            self._input_error = error
        self._exhausted = True
        self.notify()
        if self._stopped:
            self._cancel_after(self._failed_at if self._ordered and self._failed_at is not None else -1)

    @property
    def _stopped(self) -> bool:
        return self._closed or self._failed_at is not None

    def _submit(self, args: tuple[Any, ...]) -> None:
        index = self._submitted
        pending = self._session.packed(self._route, self, encode_call(self._route.arguments(args), NO_KEYWORDS), index)
        self._open[index] = pending
        self._bytes_sent += pending.size
        self._submitted = index + 1
        self._batch.add(pending)
        if not self._has_room():
            self._batch.flush()
            self._wait_for_room()

    def _has_room(self) -> bool:
        outstanding = self._submitted - self._delivered
        if self._starved:
            outstanding += outstanding >> 2  # once full, go on when a quarter is free: fewer wake-ups
        return (
            outstanding < self._session.window(self._route.function)
            and self._bytes_sent - self._bytes_settled < OUTSTANDING_MAX_BYTES
        )

    def _wait_for_room(self) -> None:
        self._starved = True
        while not self._has_room() and not self._stopped:
            self._room.clear()
            if not self._has_room() and not self._stopped:
                self._room.wait()
        self._starved = False

    # The consumer.

    def take(self) -> tuple[int, Settled] | None:
        """Return the next result and count it as read, None while there is none."""
        index = self._delivered
        if self._ordered:
            settled = self._arrived.pop(index, None)
            if settled is None:
                return None
            found = index, settled
        elif self._queue:
            found = self._queue.popleft()
        else:
            return None
        self._delivered = index + 1
        if self._starved and self._has_room():
            self._room.set()
        if self._progress.enabled:
            self._progress.advance(index + 1, self._submitted if self._exhausted else self._total)
        return found

    def open_result(self, found: tuple[int, Settled]) -> Any:
        """Return a result's value, or its exception where exceptions are returned; else raise it."""
        settled = found[1]
        if settled.outcome == Outcome.VALUE:
            return opened(settled, call_id="", label=self._route.label)
        call_id = self._failed.pop(found[0], "")
        error = error_of(settled, call_id=call_id, label=self._route.label)
        add_note(error, f"It is of input {found[0]} (counted from 0) of {self._route.label}, call {call_id}.")
        if self._return_exceptions and settled.outcome != FAILED_HERE:
            return error
        self.close()
        raise trimmed(error)

    def finished(self) -> bool:
        """Tell whether everything was read; raises what the inputs raised."""
        if self._input_error is not None:
            error, self._input_error = self._input_error, None
            self.close()
            raise error
        return self._closed or (self._exhausted and self._delivered >= self._submitted)

    def wait(self) -> None:
        self._session.wait(self)

    def is_unshown(self, found: tuple[int, Settled] | None = None) -> bool:
        """Tell whether what this result's call has printed, or any call, may not be shown yet."""
        return bool(self._unshown) and (found is None or found[0] in self._unshown)

    def await_output(self) -> None:
        """Return when what has been printed by all calls whose results are here is shown: one wait serves them all."""
        self._unshown = set()  # before it is asked for: what ends meanwhile is waited for on its own
        self._session.await_output()

    def close(self, reason: str = UNREAD) -> None:
        """Stop pulling inputs, cancel what is open, for this reason, drop what is unread."""
        if not self._closed:
            self._ended_by = reason
            self._closed = True
            self._room.set()
            self._cancel_after(-1)
            self._arrived.clear()
            self._queue.clear()
            self._progress.close()

    def abandon(self) -> None:
        """Close soon, from a finalizer, where no lock may be taken."""
        if not self._closed:
            self._session.reader.later(self.close)


class MapResults(Generic[T_co], Iterator[T_co]):
    """The results of a map as they come. Closing it, or letting go of it, cancels what has not finished."""

    def __init__(self, run: MapRun) -> None:
        self._run = run
        run.start()

    def __iter__(self) -> MapResults[T_co]:
        return self

    def __next__(self) -> T_co:
        run = self._run
        found = run.take()
        while found is None:
            run.ready = False
            found = run.take()
            if found is None:
                if run.finished():
                    run.close()
                    if run.is_unshown():
                        run.await_output()
                    raise StopIteration
                self._wait()
                found = run.take()
        if run.is_unshown(found):
            run.await_output()
        value: T_co = run.open_result(found)
        return value

    def close(self) -> None:
        """Cancel what has not finished; the results not yet read are dropped."""
        self._run.close()

    def _wait(self) -> None:
        try:
            self._run.wait()
        except BaseException as error:
            self._run.close(INTERRUPTED if isinstance(error, KeyboardInterrupt) else UNREAD)
            raise

    def __del__(self) -> None:
        self._run.abandon()


class AsyncMapResults(Generic[T_co], AsyncIterator[T_co]):
    """The results of a map as they come, for an event loop."""

    def __init__(self, run: MapRun, bell: LoopBell, session: Session) -> None:
        self._run = run
        self._bell = bell
        self._session = session
        run.start()

    def __aiter__(self) -> AsyncMapResults[T_co]:
        return self

    async def __anext__(self) -> T_co:
        run = self._run
        found = run.take()
        while found is None:
            news = self._bell.arm()
            found = run.take()
            if found is None:
                if run.finished():
                    run.close()
                    if run.is_unshown():
                        await asyncio.to_thread(run.await_output)
                    raise StopAsyncIteration
                self._session.reader.want_background()
                await news
                found = run.take()
        if run.is_unshown(found):
            await asyncio.to_thread(run.await_output)
        value: T_co = run.open_result(found)
        return value

    async def aclose(self) -> None:
        """Cancel what has not finished; the results not yet read are dropped."""
        self._run.close()

    def __del__(self) -> None:
        self._run.abandon()


def zipped(first: Iterable[Any], more: tuple[Iterable[Any], ...]) -> Iterator[tuple[Any, ...]]:
    """Return the argument tuples of a map over several iterables; the shortest ends it."""
    return zip(first, *more, strict=False)


def length_of(*iterables: Any) -> int | None:
    """Return how many inputs there will be, where that can be told without pulling them."""
    try:
        return min(len(one) for one in iterables)
    except TypeError:
        return None
