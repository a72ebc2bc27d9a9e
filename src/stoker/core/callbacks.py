"""When callbacks are tried, and how many at once: a schedule with back-off and jitter, and a line with bounds.

Thirteen tries, the first at once, then after one second and four times as long each time, six hours at most: about a
day. Each wait is shortened by a random part of up to a half, so that what failed together does not come back together.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

FIRST_SECONDS = 1.0
FACTOR = 4.0
LONGEST_SECONDS = 6 * 3600.0
ATTEMPTS_MAX = 13
AT_ONCE = 32  # a try holds a connection for some seconds at most
AT_ONCE_OF_HOST = 4  # so that a host that hangs leaves room for the others
GONE = 410  # who answers so wants to hear no more of it


def delay(attempts: int, jitter: float) -> float | None:
    """Return the seconds to wait after so many tries have failed; None: it is given up. ``jitter``: from 0 to 1."""
    if attempts >= ATTEMPTS_MAX:
        return None
    whole = min(LONGEST_SECONDS, FIRST_SECONDS * FACTOR ** (attempts - 1))
    return whole * (1.0 - 0.5 * jitter)


@dataclass(frozen=True)
class Answer:
    """What a try came to: ``status`` 0 where there was no answer, ``said`` in words, ``retry_after`` in seconds."""

    status: int
    said: str
    retry_after: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What follows from a try. ``wait``: seconds until the next one; None: it is over, and ``delivered`` or not."""

    delivered: bool
    wait: float | None = None


def judge(status: int, *, attempts: int, jitter: float, retry_after: float = 0.0) -> Verdict:
    """Say what becomes of a callback after a try.

    Args:
        status: the answer's, 0 for none.
        attempts: tries so far, with this one.
        jitter: from 0 to 1.
        retry_after: seconds that the answer asks for, which are kept if they are no more than the longest wait.
    """
    if 200 <= status < 300:
        return Verdict(True)
    wait = None if status == GONE else delay(attempts, jitter)
    return Verdict(False, wait if wait is None else max(wait, min(retry_after, LONGEST_SECONDS)))


class Line:
    """Callbacks that are due some time, and those that are being tried: bounded in all, and for each host."""

    def __init__(self, *, at_once: int = AT_ONCE, of_host: int = AT_ONCE_OF_HOST) -> None:
        self._at_once = at_once
        self._of_host = of_host
        self._due: list[tuple[float, int, str, str]] = []
        self._number = 0
        self._entries: dict[str, int] = {}  # id → the number of its entry that counts: others are of earlier plans
        self._held: dict[str, deque[str]] = {}  # due, while their host has as many as it may
        self._tried: dict[str, str] = {}  # id → host
        self._busy: dict[str, int] = {}  # host → tries that go on

    def add(self, name: str, host: str, at: float) -> None:
        """Have a callback tried at that time, and at no other that was planned for it."""
        self._number += 1
        self._entries[name] = self._number
        heapq.heappush(self._due, (at, self._number, name, host))

    def take(self, now: float) -> list[str]:
        """Return those to be tried now; `ended` has to be called for each."""
        found: list[str] = []
        for host in [host for host in self._held if self._busy.get(host, 0) < self._of_host]:
            held = self._held[host]
            while held and self._has_room(host):
                if (name := held.popleft()) in self._entries:
                    found.append(self._begin(name, host))
            if not held:
                del self._held[host]
        while self._due and self._due[0][0] <= now and len(self._tried) < self._at_once:
            _, number, name, host = heapq.heappop(self._due)
            if self._entries.get(name) != number:
                continue
            if self._has_room(host):
                found.append(self._begin(name, host))
            else:
                self._held.setdefault(host, deque()).append(name)
        return found

    def ended(self, name: str) -> None:
        """A try is over: another one of its host may begin."""
        host = self._tried.pop(name)
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]

    def next_at(self) -> float | None:
        """Return when the next one is due, whether or not there is room for it; None where none is."""
        return self._due[0][0] if self._due and len(self._tried) < self._at_once else None

    def _has_room(self, host: str) -> bool:
        return len(self._tried) < self._at_once and self._busy.get(host, 0) < self._of_host

    def is_tried(self, name: str) -> bool:
        """Tell whether a callback is being tried just now."""
        return name in self._tried

    def _begin(self, name: str, host: str) -> str:
        del self._entries[name]
        self._tried[name] = host
        self._busy[host] = self._busy.get(host, 0) + 1
        return name
