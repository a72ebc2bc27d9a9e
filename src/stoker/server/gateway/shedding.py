"""Requests of which it is known already that they are refused: the same one was, a moment ago.

Under overload most of what comes is refused, and each refusal takes from what the server has left for answers. So
whoever asks the same thing, with the same deadline, within a moment of having been told that it could not be answered
by then, is told so again before anything else is looked at. The moment is short beside the deadline: a queue that is
full for it has hardly moved. Pure: the time is given.
"""

from __future__ import annotations

from typing import NamedTuple

from stoker.core.calls import Result
from stoker.server.gateway.problems import Problem, problem_of, whole_answer
from stoker.server.gateway.routing import Route

MOMENT_SECONDS = 0.02
SHARE = 0.1  # of the deadline, that the moment has at most
KNOWN_MAX = 1000  # distinct requests, of which each is held for a moment
_OTHERWISE = frozenset({b"origin", b"prefer", b"idempotency-key", b"last-event-id"})  # headers that change the answer

Key = tuple[str, str, bytes | None, bytes | None, bytes | None]


class Refused(NamedTuple):
    """What was said, of which function, and until when it holds; ``whole``: as it goes over the wire."""

    problem: Problem
    route: Route
    until: float
    whole: bytes


class Shedding:
    """See the module."""

    def __init__(self) -> None:
        self._known: dict[Key, Refused] = {}

    @staticmethod
    def key(method: str, path: str, headers: dict[bytes, bytes]) -> Key | None:
        """Return what a request has in common with others that are answered alike; None for one that may not be."""
        if not _OTHERWISE.isdisjoint(headers):
            return None
        get = headers.get
        return method, path, get(b"host"), get(b"authorization"), get(b"x-stoker-deadline")

    def find(self, key: Key | None, *, now: float) -> Refused | None:
        """Return what such a request was told a moment ago."""
        if key is None or not self._known:
            return None
        found = self._known.get(key)
        if found is not None and now >= found.until:
            del self._known[key]
            return None
        return found

    def learn(self, key: Key | None, result: Result, *, deadline: float | None, route: Route, now: float) -> None:
        """Take in how a request ended; ``deadline`` is what it said itself, in seconds."""
        error = result.error
        if deadline is None:
            deadline = route.spec.options.deadline
        if key is None or deadline is None or error is None or error.fields.get("reason") != "deadline":
            return
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        until = now + min(MOMENT_SECONDS, SHARE * deadline)
        problem = problem_of(result.outcome, error)
        told = [*((name.encode(), value.encode()) for name, value in problem.headers.items()), *route.told]
        whole = whole_answer(problem.status, problem.body(), headers=told, closes=False)
        self._known[key] = Refused(problem, route, until, whole)
