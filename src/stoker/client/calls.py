"""Open calls: what was submitted and is not settled, and who waits for it.

A call's `sink` is told of everything that arrives for it, on the thread that reads the connection: a sink stores and
notifies, and runs no user code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from stoker.errors import CallCancelled, CallError, ConnectionFailed, StokerError, from_wire
from stoker.protocol.encoded import Encoded
from stoker.protocol.frames import Buffer
from stoker.protocol.messages import Segments, Submit
from stoker.protocol.payload import decode
from stoker.protocol.remote_exceptions import decode_exception
from stoker.transport.segments import INLINE_MAX_BYTES
from stoker.types import ErrorInfo, Outcome

_ENDS_THE_CALLER = frozenset(
    {
        "builtins.SystemExit",
        "builtins.KeyboardInterrupt",
        "builtins.GeneratorExit",
        "asyncio.exceptions.CancelledError",
    }
)
REFUSED = -1  # beside `Outcome`: the call was never accepted
FAILED_HERE = -2  # the client itself gave up, because the server is gone for good
BATCH_MAX_CALLS = 512
BATCH_MAX_BYTES = 8 << 20  # a frame's share of a slow reader's memory; well under BODY_MAX_BYTES


class Route(NamedTuple):
    """What calls that travel in one `Submit` have in common. ``label`` is for people.

    ``deadline`` is the function's own where the client knows it: what is sent again gets the time that is left.
    ``method`` is that of a class, whose name goes before a call's arguments. ``trace`` is the caller's W3C
    ``traceparent``, if it has one.
    """

    function: str
    label: str
    kind: str = "call"
    detached: bool = False
    priority: int = 0
    parent: str = ""
    deadline: float | None = None
    method: str = ""
    trace: str = ""

    def arguments(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """Return a call's arguments by position as they travel."""
        return (self.method, *args) if self.method else tuple(args)


class Settled(NamedTuple):
    """How a call ended, still encoded: it is opened by the thread that asked, once what it ``printed`` is shown."""

    outcome: int
    data: Buffer = b""
    error: ErrorInfo | None = None
    printed: bool = False


class Sink(Protocol):
    """Where the news of a call go."""

    def settle(self, pending: Pending, settled: Settled) -> None: ...

    def accept(self, pending: Pending) -> None: ...

    def items(self, pending: Pending, first: int, parts: list[Buffer]) -> None: ...


class Pending:
    """One open call. It keeps its input until its result has come, for sending it again after a reconnect."""

    __slots__ = (
        "accepted",
        "attempt",
        "cancelled",
        "channel",
        "data",
        "due",
        "encoded",
        "id",
        "route",
        "segment",
        "sink",
        "tag",
        "upto",
    )

    def __init__(self, call_id: str, route: Route, sink: Sink, tag: int = 0) -> None:
        self.id = call_id
        self.route = route
        self.sink = sink
        self.tag = tag
        self.data: Buffer = b""
        self.encoded: Encoded | None = None  # set instead of `data` where the payload is big enough for a segment
        self.segment = ""
        self.accepted = False
        self.channel = ""  # that it was sent down first
        self.cancelled = ""  # the reason, once somebody has cancelled it
        self.upto = 0  # a stream's credit
        self.attempt = 0  # a stream's newest attempt
        self.due = 0.0  # when its deadline is over, by the monotonic clock; 0 before it was sent, or without one

    @property
    def size(self) -> int:
        return self.encoded.size if self.encoded is not None else len(self.data)


class Waiter:
    """Somebody who waits for news; see `stoker.client.reader`.

    ``ready`` is set by `notify` from any thread and cleared by the waiting one *before* it looks at its state, so that
    no news is missed.
    """

    __slots__ = ("_lock", "ready")

    def __init__(self) -> None:
        self.ready = False
        self._lock: threading.Lock | None = None

    def notify(self) -> None:
        self.ready = True
        if self._lock is not None:
            self.wake()

    def wake(self) -> None:
        """Let `park` return, with or without news."""
        lock = self._lock
        if lock is not None:
            try:
                lock.release()
            except RuntimeError:
                pass  # it was woken already and has not parked again

    def prepare(self) -> None:
        """From now on `wake` counts, even before `park` is reached."""
        lock = self._lock
        if lock is None:
            lock = threading.Lock()
            lock.acquire()
            self._lock = lock
        else:
            lock.acquire(blocking=False)

    def park(self, timeout: float | None) -> None:
        """Sleep until somebody wakes this, or the time is over."""
        assert self._lock is not None
        self._lock.acquire(timeout=-1 if timeout is None else max(timeout, 0.0))


class Slot(Waiter):
    """The sink of one attached call: holds how it ended."""

    __slots__ = ("settled",)

    def __init__(self) -> None:
        super().__init__()
        self.settled: Settled | None = None

    def settle(self, pending: Pending, settled: Settled) -> None:
        self.settled = settled
        self.notify()

    def accept(self, pending: Pending) -> None:
        return None

    def items(self, pending: Pending, first: int, parts: list[Buffer]) -> None:
        return None


class Sinks:
    """Several sinks of one call: its spawner's, and those of handles made from its id."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def settle(self, pending: Pending, settled: Settled) -> None:
        for sink in self._sinks:
            sink.settle(pending, settled)

    def accept(self, pending: Pending) -> None:
        for sink in self._sinks:
            sink.accept(pending)

    def items(self, pending: Pending, first: int, parts: list[Buffer]) -> None:
        for sink in self._sinks:
            sink.items(pending, first, parts)


def opened(settled: Settled, *, call_id: str, label: str) -> Any:
    """Return the value of a settled call, or raise its error."""
    if settled.outcome == Outcome.VALUE:
        return decode(settled.data)
    raise error_of(settled, call_id=call_id, label=label)


def error_of(settled: Settled, *, call_id: str, label: str) -> BaseException:
    """Return the exception with which a call ended: Stoker's own, or the user's with its remote traceback."""
    info = settled.error
    if info is None:
        if settled.outcome == Outcome.CANCELLED:
            return CallCancelled(f"{label} (call {call_id}) was cancelled.", call_id=call_id, function=label)
        info = ErrorInfo("CallError", f"{label} (call {call_id}) ended without a value and without saying why.")
    if "." in info.type_name:
        # `SystemExit`, `KeyboardInterrupt` and their like would end the caller's program, or stop its loop or
        # generator: from another process they are told of, as what happened there.
        harmless = settled.data if not _ENDS_THE_CALLER.intersection(info.mro) else b""
        found: BaseException = decode_exception(harmless, info, call_id=call_id, function=label)
        return found
    error = from_wire(info.type_name, info.message, info.fields)
    if isinstance(error, CallError):
        error.call_id, error.function = error.call_id or call_id, error.function or label
    return error


def submit_of(pendings: list[Pending], *, acked: int) -> tuple[Submit, list[Buffer]]:
    """Return the message, and its body, for calls of one route that are due at one time."""
    route = pendings[0].route
    segments: Segments = {}
    for i, pending in enumerate(pendings):
        if pending.segment:
            segments[str(i)] = [pending.segment, pending.size]
    parts = [pending.data for pending in pendings]
    message = Submit(
        function=route.function,
        ids=[pending.id for pending in pendings],
        sizes=list(map(len, parts)),
        segments=segments,
        kind=route.kind,
        detached=route.detached,
        deadline=None if route.deadline is None else _time_left(pendings, route.deadline),
        priority=route.priority,
        parent=route.parent,
        acked=acked,
        channel=pendings[0].channel,
        method=route.method,
        trace=route.trace,
    )
    return message, parts


def _time_left(pendings: list[Pending], deadline: float) -> float:
    now = time.monotonic()
    if not pendings[0].due:
        for pending in pendings:
            pending.due = now + deadline
    return max(0.0, pendings[0].due - now)


def frames_of(pendings: Iterable[Pending], *, most: int = 1 << 30) -> Iterator[list[Pending]]:
    """Yield calls that travel in one frame each, in order, at most so many in one.

    A big input that lies in no segment goes by itself: it comes in parts, which belong to one call.
    """
    batch: list[Pending] = []
    size = 0
    for pending in pendings:
        length = len(pending.data)
        weight = length if length <= INLINE_MAX_BYTES else BATCH_MAX_BYTES + 1  # nothing fits beside it
        full = len(batch) >= most or size + weight > BATCH_MAX_BYTES
        first = batch[0] if batch else pending
        kin = (pending.route, pending.due, pending.channel) == (first.route, first.due, first.channel)
        if batch and (full or not kin):
            yield batch
            batch, size = [], 0
        batch.append(pending)
        size += weight
    if batch:
        yield batch


class OpenCalls:
    """The calls that are not settled, by id. Added to under the connection's send lock; taken from by its reader.

    What walks over them walks over a copy: the reader goes on meanwhile.
    """

    def __init__(self) -> None:
        self._calls: dict[str, Pending] = {}
        self.get = self._calls.get
        self.pop = self._calls.pop

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, pendings: Iterable[Pending]) -> None:
        for pending in pendings:
            self._calls[pending.id] = pending

    def add_one(self, pending: Pending) -> None:
        self._calls[pending.id] = pending

    def all(self) -> list[Pending]:
        return list(self._calls.values())

    def unfinished_spawns(self) -> int:
        """Count detached calls that somebody in this process made or watches and that are not settled."""
        return sum(1 for pending in list(self._calls.values()) if pending.route.detached)

    def watched(self) -> list[str]:
        """Return the ids of detached calls that the server has accepted: after a reconnect they are watched again."""
        return [p.id for p in list(self._calls.values()) if p.accepted]

    def to_submit(self, *, known: frozenset[str] = frozenset()) -> Iterator[list[Pending]]:
        """Yield batches of what has to be sent again after a reconnect, in the order in which it was first sent.

        What is ``known`` to the server is not: it has that, and sends its end.
        """
        again = [p for p in list(self._calls.values()) if not (p.accepted or p.id in known)]
        for pending in again:
            pending.attempt = 0  # a server that was restarted counts attempts from one again
        yield from frames_of(again, most=BATCH_MAX_CALLS)

    def cancelled(self) -> dict[str, list[str]]:
        """Return the ids of calls that were cancelled, by reason, for saying it again after a reconnect."""
        found: dict[str, list[str]] = {}
        for pending in list(self._calls.values()):
            if pending.cancelled:
                found.setdefault(pending.cancelled, []).append(pending.id)
        return found

    def credits(self) -> list[tuple[str, int]]:
        """Return the room granted to each open stream."""
        return [(p.id, p.upto) for p in list(self._calls.values()) if p.upto]

    def fail_all(self, error: StokerError) -> None:
        """Settle everything with an error of the client's own."""
        info = ErrorInfo(type(error).__name__, str(error), fields=error.fields)
        while self._calls:
            _, pending = self._calls.popitem()
            pending.sink.settle(pending, Settled(FAILED_HERE, b"", info))


GONE = ConnectionFailed("The session was closed before this call was settled.")
