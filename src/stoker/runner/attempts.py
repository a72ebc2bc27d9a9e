"""The attempts that a worker has been leased: waiting, running, and what was said of some before they came.

The desk's lock also covers the pending results of `Outbox`: an attempt leaves ``running`` in the same step in which its
result is noted, so that a reconnecting worker names each attempt exactly once, as held or as finished.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from stoker.protocol.messages import Lease
from stoker.runner.config import DEFAULT_CREDIT
from stoker.runner.interrupts import Interrupt
from stoker.transport.current import CurrentCall
from stoker.types import GangSeat

if TYPE_CHECKING:
    from stoker.runner.callables import Target
    from stoker.runner.channel import Channel

Key: TypeAlias = "tuple[str, int]"
Resolved: TypeAlias = "tuple[Target, tuple[Any, ...], dict[str, Any]]"

FOREKNOWN_MAX = 10_000  # attempts named before their lease: most of these names are late, not early, and never used


class Attempt(CurrentCall):
    """One attempt and what becomes of it. ``segment`` is (name, size) when its input does not lie in ``body``."""

    __slots__ = (
        "ahead", "batch", "body", "channel", "credit", "encode", "ended", "interrupt", "is_generator", "is_request",
        "key", "method", "raised", "segment", "started", "was_read_ahead",
    )  # fmt: skip

    def __init__(
        self, call_id: str, number: int, body: memoryview, segment: tuple[str, int] | None, credit: int
    ) -> None:
        super().__init__(call_id, number)
        self.key: Key = (call_id, number)
        self.body = body
        self.ahead: Resolved | None = None  # what it runs with which arguments, where that was worked out before
        self.was_read_ahead = False  # or that was tried
        self.segment = segment
        self.credit = credit
        self.started = 0.0
        self.ended = 0.0  # when it was over, where that is reported later
        self.encode: Callable[[Any], bytes] | None = None  # of what it returns or yields, where that is no pickle
        self.is_generator = False  # what it runs, once that is known
        self.is_request = False  # it came over HTTP, once that is known
        self.method = ""  # of a class: as leased where some of its methods run in batches, else once it is known
        self.batch = 0  # how many ran in the batch that it was the first of
        self.channel: Channel | None = None  # that it came by, and its answer goes by, until that is closed
        self.interrupt: Interrupt | None = None
        self.raised = False  # its exception was raised: it comes once, code that swallows it is ended from outside


class Desk:
    """See the module. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[Attempt] = deque()
        self.running: dict[Key, Attempt] = {}
        self.draining = False
        self.taken = 0
        self.seat: GangSeat | None = None  # in a gang: the one leased last
        self.connection = 0  # leases of an earlier connection are not ours any more: the server has been told so
        self._cancelled: dict[Key, None] = {}
        self._revoked: dict[Key, int] = {}  # how often: one that was given back may be leased, and revoked, again

    def put(self, lease: Lease, parts: Sequence[memoryview], *, connection: int) -> tuple[list[Attempt], list[Attempt]]:
        """Add leased attempts. Return those that were cancelled before they came, and those to be given back."""
        cancelled: list[Attempt] = []
        returned: list[Attempt] = []
        credits = lease.credits or [0] * len(lease.ids)
        with self.lock:
            if connection != self.connection:
                return cancelled, returned
            for i, call_id in enumerate(lease.ids):
                segment = lease.segments.get(str(i)) if lease.segments else None
                place = (str(segment[0]), int(segment[1])) if segment else None
                attempt = Attempt(call_id, lease.attempts[i], parts[i], place, credits[i] or DEFAULT_CREDIT)
                if lease.gang is not None:
                    attempt.seat = self.seat = lease.gang
                if lease.traces:
                    attempt.trace = lease.traces[i]
                if lease.methods:
                    attempt.method = lease.methods[i]
                if self._revoked and attempt.key in self._revoked:
                    self._drop_revoked(attempt.key)
                elif self._cancelled and attempt.key in self._cancelled:
                    del self._cancelled[attempt.key]
                    cancelled.append(attempt)
                elif self.draining:
                    returned.append(attempt)
                else:
                    self.waiting.append(attempt)
        return cancelled, returned

    def take(self) -> Attempt | None:
        """Return the next attempt to run, None when none waits."""
        with self.lock:
            if not self.waiting:
                return None
            attempt = self.waiting.popleft()
            self.running[attempt.key] = attempt
            self.taken += 1
            return attempt

    def take_all(self, count: int, *, method: str = "") -> list[Attempt]:
        """Return the next attempts to run, so many at most: of this method, where they were leased with theirs."""
        with self.lock:
            if method:
                taken = list(islice((one for one in self.waiting if one.method == method), count))
                chosen = {one.key for one in taken}
                self.waiting = deque(one for one in self.waiting if one.key not in chosen) if taken else self.waiting
            else:
                taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
            self.running.update((attempt.key, attempt) for attempt in taken)
            self.taken += len(taken)
            return taken

    def first_waiting(self, count: int) -> list[Attempt]:
        """Return the attempts that are next, so many at most; they go on waiting."""
        with self.lock:
            return list(islice(self.waiting, count))

    def add(self, attempt: Attempt) -> None:
        """Add an attempt that came by a channel."""
        with self.lock:
            self.waiting.append(attempt)

    def done(self, attempt: Attempt) -> None:
        """Forget an attempt that was answered by its channel."""
        with self.lock:
            self.running.pop(attempt.key, None)

    def leave_channel(self, channel: Channel) -> list[Key]:
        """Part what came by a channel from it: what waits is dropped, what runs is returned."""
        with self.lock:
            if any(attempt.channel is channel for attempt in self.waiting):
                self.waiting = deque(attempt for attempt in self.waiting if attempt.channel is not channel)
            running = [attempt for attempt in self.running.values() if attempt.channel is channel]
            for attempt in running:
                attempt.channel = None
            return [attempt.key for attempt in running]

    def cancel(self, keys: Sequence[Key]) -> tuple[list[Attempt], list[Attempt]]:
        """Return the attempts of these that waited, which will not run, and those that run now; remember the rest."""
        wanted = set(keys)
        with self.lock:
            dropped = self._remove_waiting(wanted)
            running = [self.running[key] for key in keys if key in self.running]
            for attempt in dropped + running:
                wanted.discard(attempt.key)
            _remember(self._cancelled, wanted)
        return dropped, running

    def revoke(self, keys: Sequence[Key], *, finished: Callable[[], set[Key]]) -> list[Key]:
        """Return those of these attempts that were not started and never will be here.

        ``finished`` is asked under the lock: an attempt that ends meanwhile would else be neither running nor finished.
        One whose lease has not been read yet counts as given back: it is dropped when it comes.
        """
        wanted = set(keys)
        with self.lock:
            given = [attempt.key for attempt in self._remove_waiting(wanted)]
            unseen = wanted - set(given) - self.running.keys() - finished()
            for key in unseen:
                self._revoked[key] = self._revoked.pop(key, 0) + 1
            _forget_oldest(self._revoked)
        return given + [key for key in keys if key in unseen]

    def _drop_revoked(self, key: Key) -> None:
        """Take note that a lease has come which was given back before; of several leases each is dropped for itself."""
        self._revoked[key] -= 1
        if not self._revoked[key]:
            del self._revoked[key]

    def drain(self) -> list[Attempt]:
        """Take no more, and return the attempts that waited."""
        with self.lock:
            self.draining = True
            left = list(self.waiting)
            self.waiting.clear()
            return left

    def reconnect(self, connection: int, now: float) -> tuple[list[str], list[int], list[float]]:
        """Start over on a new connection: return ids and numbers of what is held and not finished, and for how long
        each has run by ``now``, of the clock that ``started`` is of."""
        with self.lock:
            self.connection = connection
            # What was said of attempts that we never saw was said on the old connection; their numbers may come again.
            self._cancelled.clear()
            self._revoked.clear()
            held = [*self.running.values(), *self.waiting]
            ages = [now - attempt.started if attempt.started else 0.0 for attempt in held]
            return [attempt.id for attempt in held], [attempt.number for attempt in held], ages

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    def _remove_waiting(self, wanted: set[Key]) -> list[Attempt]:
        found = [attempt for attempt in self.waiting if attempt.key in wanted]
        if found:
            self.waiting = deque(attempt for attempt in self.waiting if attempt.key not in wanted)
        return found


def _remember(memory: dict[Key, None], keys: set[Key]) -> None:
    memory.update(dict.fromkeys(keys))
    _forget_oldest(memory)


def _forget_oldest(memory: dict[Key, Any]) -> None:
    while len(memory) > FOREKNOWN_MAX:
        del memory[next(iter(memory))]
