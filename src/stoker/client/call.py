"""`Call`: the future of a detached call. It pickles by its id and can be taken up in any program of the same server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from stoker.client import session as sessions
from stoker.client.calls import REFUSED, Pending, Route, Settled, Waiter, error_of, opened
from stoker.client.mailbox import mailbox
from stoker.client.session import Session
from stoker.errors import Overloaded
from stoker.protocol.frames import Buffer
from stoker.types import CallState, Outcome

R_co = TypeVar("R_co", covariant=True)

SPAWNED = "spawned calls"
SPAWN_BATCH_CALLS = 256
SPAWN_UNCOMMITTED_MAX_CALLS = 4096  # sent and not yet committed: enough for a group commit to be full
SPAWN_BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class TimelineEntry:
    """One step of a call: ``at`` is seconds since the epoch, ``detail`` the reason, for people.

    ``host`` is the machine of the worker, where the server has several.
    """

    at: float
    event: str
    detail: str = ""
    worker: str = ""
    host: str = ""


class Call(Generic[R_co]):
    """A call that was accepted: it goes on whether or not anybody waits for it."""

    def __init__(self, call_id: str, *, label: str = "") -> None:
        self.id = call_id
        self._label = label or "the call"
        self._session: Session | None = None
        self._pending: Pending | None = None
        self._settled: Settled | None = None
        self._accepted = False
        self._waiters: list[Callable[[], None]] = []

    @classmethod
    def from_id(cls, call_id: str) -> Call[Any]:
        """Return the handle of a call that was made elsewhere. Nothing is asked yet."""
        return Call(call_id)

    def result(self, timeout: float | None = None) -> R_co:
        """Wait for the value, or raise the call's error.

        Raises:
            TimeoutError: it has not finished within ``timeout`` seconds; it goes on.
        """
        settled = self._wait_settled(timeout)
        value: R_co = opened(settled, call_id=self.id, label=self._label)
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return the call's error, None where it has a value."""
        settled = self._wait_settled(timeout)
        if settled.outcome == Outcome.VALUE:
            return None
        return error_of(settled, call_id=self.id, label=self._label)

    def done(self) -> bool:
        """Tell whether the call has finished, without waiting."""
        return self._settled is not None or self.status().settled

    def cancel(self, *, force: bool = False) -> None:
        """Cancel the call. Running code gets an exception it can clean up on; ``force`` ends its worker at once."""
        if self._settled is None:
            self._watch().cancel([self._known()], force=force)

    def status(self) -> CallState:
        """Return where the call is."""
        return CallState(self._info()["state"])

    def timeline(self) -> list[TimelineEntry]:
        """Return what has happened to the call so far, with reasons."""
        return [TimelineEntry(**entry) for entry in self._info().get("timeline", [])]

    def why(self) -> str:
        """Return what the call is waiting for, in a sentence; empty when it waits for nothing."""
        return str(self._info().get("why") or "")

    def logs(self) -> list[str]:
        """Return the lines that the call has printed."""
        answer = sessions.lasting(SPAWNED).request_kept(SPAWNED, "logs", {"call": self.id})
        lines = answer.get("lines", []) if isinstance(answer, dict) else answer
        return [line["text"] if isinstance(line, dict) else str(line) for line in lines]

    def __await__(self) -> Generator[Any, None, R_co]:
        return self._result_async().__await__()

    def __repr__(self) -> str:
        return f"<Call {self.id} of {self._label}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_call, (self.id, self._label)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # The sink, on the reader's thread.

    def settle(self, pending: Pending, settled: Settled) -> None:
        self._settled = self._explained(pending, settled)
        self._pending = None
        self._tell()

    def accept(self, pending: Pending) -> None:
        self._accepted = True
        self._tell()

    def items(self, pending: Pending, first: int, parts: list[Buffer]) -> None:
        return None

    def _tell(self) -> None:
        for notify in list(self._waiters):
            notify()

    def _explained(self, pending: Pending, settled: Settled) -> Settled:
        """Say that a call of another program cannot be known to a server of this program's own."""
        error, made_here = settled.error, bool(pending.route.function)
        if error is None or error.type_name != "NotFound" or made_here:
            return settled
        if self._session is None or not self._session.embedded:
            return settled
        return settled._replace(error=replace(error, message=f"{sessions.no_server(SPAWNED)} {error.message}"))

    # Waiting.

    def _wait_settled(self, timeout: float | None) -> Settled:
        deadline = None if timeout is None else time.monotonic() + timeout
        self._wait(lambda: self._settled is not None, deadline)
        if self._settled is None:
            raise TimeoutError(f"{self._label} (call {self.id}) had no result after {timeout} s. It goes on.")
        if self._settled.printed and self._session is not None:
            self._settled = self._settled._replace(printed=False)
            self._session.await_output()
        return self._settled

    def _wait(self, reached: Callable[[], bool], deadline: float | None) -> None:
        if reached():
            return
        session = self._watch()
        waiter = Waiter()
        self._waiters.append(waiter.notify)
        try:
            while not reached() and (deadline is None or time.monotonic() < deadline):
                session.wait(waiter, deadline)
                waiter.ready = False
        finally:
            self._waiters.remove(waiter.notify)

    async def _result_async(self) -> R_co:
        if self._settled is None:
            await self._arrival()
        assert self._settled is not None
        value: R_co = opened(self._settled, call_id=self.id, label=self._label)
        return value

    async def _arrival(self) -> None:
        loop = asyncio.get_running_loop()
        box, future = mailbox(), loop.create_future()

        def ring() -> None:
            if self._settled is not None:
                box.deliver(future, None)

        session = await loop.run_in_executor(None, self._watch)
        self._waiters.append(ring)
        try:
            if self._settled is None:
                session.reader.want_background()
                await future
        finally:
            self._waiters.remove(ring)

    def _watch(self) -> Session:
        """Subscribe to the call's result, unless this process made it and still has the session it made it in."""
        session = sessions.lasting(SPAWNED)
        if self._settled is None and (self._pending is None or self._session is not session):
            pending = Pending(self.id, Route("", self._label, detached=True), self)
            pending.accepted = True
            self._session, self._pending = session, pending
            session.connection.watch(pending)
        return session

    def _known(self) -> Pending:
        return self._pending or Pending(self.id, Route("", self._label, detached=True), self)

    def _info(self) -> dict[str, Any]:
        found: dict[str, Any] = sessions.lasting(SPAWNED).request_kept(SPAWNED, "call", {"id": self.id})
        return found


def spawn(session: Session, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
    """Make one detached call; returns once it is committed.

    Raises:
        Overloaded: the pool's queue is full.
    """
    call, pending = _new_call(session, route, args, kwargs)
    session.submit([pending])
    call._wait(lambda: call._accepted or call._settled is not None, None)
    _raise_refusal(call)
    return call


def spawn_many(session: Session, route: Route, inputs: Iterable[tuple[Any, ...]]) -> list[Call[Any]]:
    """Make many detached calls, in batches that do not wait for each other; returns once all are committed.

    Where the queue is full it waits for room.
    """
    calls: list[Call[Any]] = []
    uncommitted: list[Call[Any]] = []
    batch: list[Pending] = []
    size = 0
    for args in inputs:
        call, pending = _new_call(session, route, args, {})
        calls.append(call)
        batch.append(pending)
        size += len(pending.data)
        if len(batch) >= SPAWN_BATCH_CALLS or size >= SPAWN_BATCH_BYTES:
            uncommitted += _send(session, batch)
            batch, size = [], 0
            if len(uncommitted) >= SPAWN_UNCOMMITTED_MAX_CALLS:
                half = len(uncommitted) // 2
                _commit(session, route, uncommitted[:half])
                uncommitted = uncommitted[half:]
    uncommitted += _send(session, batch)
    _commit(session, route, uncommitted)
    return calls


def _new_call(
    session: Session, route: Route, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Call[Any], Pending]:
    call: Call[Any] = Call("", label=route.label)
    pending = session.pending(route, call, args, kwargs)
    call.id, call._session, call._pending = pending.id, session, pending
    return call, pending


def _send(session: Session, batch: list[Pending]) -> list[Call[Any]]:
    if batch:
        session.submit(batch)
    return [pending.sink for pending in batch if isinstance(pending.sink, Call)]


def _commit(session: Session, route: Route, calls: Sequence[Call[Any]]) -> None:
    """Wait until each call is committed, sending again those for which there was no room."""
    again: dict[Call[Any], Pending] = {call: call._pending for call in calls if call._pending is not None}
    for call in calls:
        call._wait(lambda c=call: c._accepted or c._settled is not None, None)  # type: ignore[misc]
        while (wait := _retry_after(call)) is not None:
            _sleep(wait)
            call._settled, call._pending = None, again[call]
            session.submit_again(again[call])
            call._wait(lambda c=call: c._accepted or c._settled is not None, None)  # type: ignore[misc]
        _raise_refusal(call)


def _retry_after(call: Call[Any]) -> float | None:
    settled = call._settled
    if settled is None or settled.outcome != REFUSED:
        return None
    error = error_of(settled, call_id=call.id, label=call._label)
    return error.retry_after if isinstance(error, Overloaded) else None


def _raise_refusal(call: Call[Any]) -> None:
    if call._settled is not None and call._settled.outcome < 0:
        raise error_of(call._settled, call_id=call.id, label=call._label)


def _sleep(seconds: float) -> None:
    time.sleep(min(max(seconds, 0.001), 5.0))


def _restore_call(call_id: str, label: str) -> Call[Any]:
    return Call(call_id, label=label)


class _Gather:
    """Wait for several calls: ``stoker.gather(*calls)``, ``await stoker.gather.aio(*calls)``."""

    def __call__(self, *calls: Call[R_co], return_exceptions: bool = False) -> list[R_co]:
        """Return the values of calls, in their order; the first error is raised, unless exceptions are returned."""
        return [_outcome(call, return_exceptions) for call in calls]

    async def aio(self, *calls: Call[R_co], return_exceptions: bool = False) -> list[R_co]:
        """Return the values of calls, in their order."""
        found: list[Any] = await asyncio.gather(*calls, return_exceptions=return_exceptions)
        return found


def _outcome(call: Call[Any], return_exceptions: bool) -> Any:
    error = call.exception()
    if error is None:
        return call.result()
    if return_exceptions:
        return error
    raise error


gather = _Gather()
