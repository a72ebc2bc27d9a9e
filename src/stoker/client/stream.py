"""`stream`: what a remote generator yields, as it comes; the reader's pace holds back the writer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from stoker.client.calls import Pending, Route, Settled, Waiter, error_of
from stoker.client.mailbox import LoopBell
from stoker.client.session import Session
from stoker.protocol.frames import Buffer
from stoker.protocol.payload import decode
from stoker.types import Outcome

T_co = TypeVar("T_co", covariant=True)

ROOM_ITEMS = 64  # the generator may be so far ahead of its reader; the first need no credit
GRANT_EVERY_ITEMS = ROOM_ITEMS // 2  # one credit frame for so many items


class StreamRun(Waiter):
    """One stream under way: the items that came and were not read, and how it ended."""

    __slots__ = ("_bell", "_expected", "_items", "_pending", "_read", "_route", "_session", "_settled", "printed")

    def __init__(
        self,
        session: Session,
        route: Route,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        bell: LoopBell | None = None,
    ) -> None:
        super().__init__()
        self._session = session
        self._route = route
        self._bell = bell
        self._items: deque[Buffer] = deque()
        self._expected = self._read = 0
        self._settled: Settled | None = None
        self.printed = False
        self._pending = session.pending(route, self, args, kwargs)
        session.submit([self._pending])

    def notify(self) -> None:
        super().notify()
        if self._bell is not None:
            self._bell.ring()

    def settle(self, pending: Pending, settled: Settled) -> None:
        self._settled, self.printed = settled, settled.printed
        self.notify()

    def accept(self, pending: Pending) -> None:
        return None

    def items(self, pending: Pending, first: int, parts: list[Buffer]) -> None:
        # A later attempt starts over: what was delivered before is skipped by its number.
        fresh = parts[max(self._expected - first, 0) :]
        self._items.extend(fresh)
        self._expected += len(fresh)
        self.notify()

    @property
    def has_item(self) -> bool:
        return bool(self._items)

    def take(self) -> Any:
        """Return the next item, and make room for more."""
        data = self._items.popleft()
        self._read += 1
        if self._settled is None and self._read % GRANT_EVERY_ITEMS == 0:
            self._session.grant(self._pending, self._read + ROOM_ITEMS)
        return decode(data)

    def finished(self) -> bool:
        """Tell whether the generator has ended; raises what it raised."""
        settled = self._settled
        if settled is None or self._items:
            return False
        if settled.outcome == Outcome.VALUE:
            return True
        self._settled = Settled(Outcome.VALUE)  # raised once; then the iterator is at its end, as generators are
        raise error_of(settled, call_id=self._pending.id, label=self._route.label)

    def wait(self) -> None:
        self._session.wait(self)

    def await_output(self) -> None:
        """Return when what the generator has printed is shown; to be called once it has ended."""
        if self.printed:
            self.printed = False
            self._session.await_output()

    def close(self) -> None:
        """Stop the generator there."""
        if self._settled is None:
            self._settled = Settled(Outcome.VALUE)
            self._session.abandon([self._pending], reason="closed")
        self._items.clear()

    def abandon(self) -> None:
        """Close soon, from a finalizer, where no lock may be taken."""
        if self._settled is None:
            self._session.reader.later(self.close)


class StreamResults(Generic[T_co], Iterator[T_co]):
    """The items of a remote generator. Closing it, or letting go of it, stops the generator there."""

    def __init__(self, run: StreamRun) -> None:
        self._run = run

    def __iter__(self) -> StreamResults[T_co]:
        return self

    def __next__(self) -> T_co:
        run = self._run
        while True:
            run.ready = False
            if run.has_item:
                item: T_co = run.take()
                return item
            run.await_output()
            if run.finished():
                raise StopIteration
            self._wait()

    def close(self) -> None:
        """Stop the generator there; the items not yet read are dropped."""
        self._run.close()

    def _wait(self) -> None:
        try:
            self._run.wait()
        except BaseException:
            self._run.close()
            raise

    def __del__(self) -> None:
        if hasattr(self, "_run"):
            self._run.abandon()


class AsyncStreamResults(Generic[T_co], AsyncIterator[T_co]):
    """The items of a remote generator, for an event loop."""

    def __init__(self, run: StreamRun, bell: LoopBell, session: Session) -> None:
        self._run = run
        self._bell = bell
        self._session = session

    def __aiter__(self) -> AsyncStreamResults[T_co]:
        return self

    async def __anext__(self) -> T_co:
        run = self._run
        while True:
            news = self._bell.arm()
            if run.has_item:
                item: T_co = run.take()
                return item
            if run.printed:
                await asyncio.to_thread(run.await_output)
            if run.finished():
                raise StopAsyncIteration
            self._session.reader.want_background()
            await news

    async def aclose(self) -> None:
        """Stop the generator there; the items not yet read are dropped."""
        self._run.close()

    def __del__(self) -> None:
        self._run.abandon()
