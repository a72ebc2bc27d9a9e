"""The queue of one pool: by priority, then fair between clients, then first come, first served.

Fair means round robin: a client with a million calls queued delays another client's single call by one call, not by a
million. Every operation is O(1) in the number of calls (the number of priorities in use is small).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stoker.core.calls import Call


class FairQueue:
    """See the module. Calls that were settled meanwhile stay until they come up, and are skipped."""

    __slots__ = ("_levels", "_of_client", "_size", "by_method")

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[str, deque[Call]]] = {}
        self._of_client: dict[str, int] = {}  # calls that wait, by client; no client without any
        self._size = 0
        self.by_method: dict[str, int] | None = None  # calls that wait, by method, where somebody wants to know

    def __len__(self) -> int:
        return self._size

    def push(self, call: Call) -> None:
        """Add a call behind its client's others."""
        self._lane(call).append(call)
        self._count(call)

    def push_front(self, call: Call) -> None:
        """Put back a call that was taken and never started, before its client's others."""
        self._lane(call).appendleft(call)
        self._count(call)

    def discard(self, call: Call) -> None:
        """Take a queued call out; O(1), it is skipped when it comes up."""
        if call.queued:
            self._uncount(call)
            if not self._size:
                self._levels.clear()  # nothing comes up any more that would let go of those that were taken out

    def pop(self) -> Call | None:
        """Return the next call, None if there is none."""
        while self._levels:
            level = max(self._levels) if len(self._levels) > 1 else next(iter(self._levels))
            lanes = self._levels[level]
            client, lane = next(iter(lanes.items()))
            call = self._next(lane)
            if not lane:
                del lanes[client]
                if not lanes:
                    del self._levels[level]
            elif len(lanes) > 1:
                lanes.move_to_end(client)
            if call is not None:
                self._uncount(call)
                return call
        return None

    def waiting(self) -> list[Call]:
        """Return every queued call, in no useful order."""
        # One that was taken out and came back stands twice in its lane until its older place comes up.
        found = {c.id: c for lanes in self._levels.values() for lane in lanes.values() for c in lane if c.queued}
        return list(found.values())

    def waiting_of(self, client: str) -> int:
        """Return how many calls of a client wait."""
        return self._of_client.get(client, 0)

    def before(self, client: str) -> int:
        """Return how many calls come up before one more of this client, priorities apart."""
        turns = self.waiting_of(client)
        return turns + sum(min(n, turns + 1) for other, n in self._of_client.items() if other != client)

    def longest(self, *, over: int) -> list[str]:
        """Return the clients with more calls waiting than that, whoever has most first."""
        found = [(n, client) for client, n in self._of_client.items() if n > over]
        return [client for _, client in sorted(found, reverse=True)]

    def newest(self, client: str, *, among: int, fits: Callable[[Call], bool]) -> Call | None:
        """Return a client's last call that fits, of the lowest priority: of its last ``among``, None if none does."""
        for level in sorted(self._levels):
            lane = self._levels[level].get(client, ())
            for call in islice(reversed(lane), among):
                if call.queued and fits(call):
                    return call
        return None

    def _count(self, call: Call) -> None:
        call.queued = True
        self._size += 1
        self._of_client[call.client] = self._of_client.get(call.client, 0) + 1
        if self.by_method is not None:
            self.by_method[call.method] = self.by_method.get(call.method, 0) + 1

    def _uncount(self, call: Call) -> None:
        call.queued = False
        self._size -= 1
        if self.by_method is not None:
            self.by_method[call.method] -= 1
        left = self._of_client[call.client] - 1
        if left:
            self._of_client[call.client] = left
        else:
            del self._of_client[call.client]

    def _lane(self, call: Call) -> deque[Call]:
        lanes = self._levels.get(call.priority)
        if lanes is None:
            lanes = self._levels[call.priority] = OrderedDict()
        lane = lanes.get(call.client)
        if lane is None:
            lane = lanes[call.client] = deque()
        return lane

    @staticmethod
    def _next(lane: deque[Call]) -> Call | None:
        while lane:
            call = lane.popleft()
            if call.queued:
                return call
        return None
