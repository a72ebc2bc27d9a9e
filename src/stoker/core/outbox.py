"""What a client is owed: settled calls, from their delivery until it says that it has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from stoker.core.calls import Delivery


class Outbox:
    """The deliveries of one client session. A frame's number counts from 1 on each connection."""

    __slots__ = ("_frames", "_open", "_seq")

    def __init__(self) -> None:
        self._frames: deque[tuple[int, list[str]]] = deque()
        self._open: dict[str, Delivery] = {}
        self._seq = 0

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._open

    def owed(self) -> list[Delivery]:
        """Return what is not acknowledged."""
        return list(self._open.values())

    def add(self, deliveries: Sequence[Delivery]) -> int:
        """Remember deliveries that are about to be sent; return their frame's number."""
        self._seq += 1
        self._frames.append((self._seq, [d.id for d in deliveries]))
        for delivery in deliveries:
            self._open[delivery.id] = delivery
        return self._seq

    def acknowledge(self, seq: int) -> list[Delivery]:
        """Return the deliveries that the client has for good, so that what they hold can go."""
        done = []
        while self._frames and self._frames[0][0] <= seq:
            for call_id in self._frames.popleft()[1]:
                delivery = self._open.pop(call_id, None)
                if delivery is not None:
                    done.append(delivery)
        return done

    def reconnect(self) -> list[Delivery]:
        """Start a new connection's count; return what must be sent again (through `add`)."""
        self._frames.clear()
        self._seq = 0
        again = list(self._open.values())
        self._open.clear()
        return again

    def clear(self) -> list[Delivery]:
        """Return all that is left when the client is gone for good."""
        return self.reconnect()
