"""Requests that are refused because the same one was, a moment ago."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from stoker.core.calls import Result
from stoker.server.gateway.shedding import KNOWN_MAX, MOMENT_SECONDS, SHARE, Key, Shedding
from stoker.types import ErrorInfo, Outcome

ROUTE: Any = SimpleNamespace(told=[(b"x-model", b"7")], spec=SimpleNamespace(options=SimpleNamespace(deadline=None)))


def refusal(reason: str) -> Result:
    error = ErrorInfo("Overloaded", "too many", fields={"reason": reason, "retry_after": 2.0})
    return Result(Outcome.ERROR, error=error)


def request(path: str = "/a/f", **headers: str) -> tuple[str, str, dict[bytes, bytes]]:
    return "POST", path, {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}


def learn(shedding: Shedding, key: Key | None, *, reason: str = "deadline", deadline: float | None = 0.5) -> None:
    shedding.learn(key, refusal(reason), deadline=deadline, route=ROUTE, now=100.0)


def test_the_same_request_is_refused_for_a_moment() -> None:
    shedding = Shedding()
    key = shedding.key(*request(authorization="Bearer t", x_stoker_deadline="500ms"))
    assert shedding.find(key, now=100.0) is None
    learn(shedding, key)
    found = shedding.find(key, now=100.0 + 0.9 * MOMENT_SECONDS)
    assert found is not None and found.problem.status == 503 and found.problem.headers["retry-after"] == "2"
    assert found.whole.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nx-model: 7\r\n")
    assert found.whole.endswith(b"\r\n\r\n" + found.problem.body()) and b"connection:" not in found.whole
    assert shedding.find(key, now=100.0 + MOMENT_SECONDS) is None
    assert shedding.find(key, now=100.0) is None  # it is forgotten


def test_the_moment_is_short_beside_the_deadline() -> None:
    shedding = Shedding()
    key = shedding.key(*request())
    learn(shedding, key, deadline=0.01)
    assert shedding.find(key, now=100.0 + 0.9 * SHARE * 0.01) is not None
    assert shedding.find(key, now=100.0 + 1.1 * SHARE * 0.01) is None


def test_another_token_deadline_or_path_is_looked_at_by_itself() -> None:
    shedding = Shedding()
    learn(shedding, shedding.key(*request(authorization="Bearer t", x_stoker_deadline="500ms")))
    for other in (
        request(authorization="Bearer u", x_stoker_deadline="500ms"),
        request(authorization="Bearer t", x_stoker_deadline="5s"),
        request("/a/g", authorization="Bearer t", x_stoker_deadline="500ms"),
    ):
        assert shedding.find(shedding.key(*other), now=100.0) is None


def test_what_is_answered_otherwise_is_never_shed() -> None:
    for name in ("origin", "prefer", "idempotency_key", "last_event_id"):
        assert Shedding.key(*request(**{name: "x"})) is None
    shedding = Shedding()
    for reason, deadline in (("queue_full", 0.5), ("deadline", None)):
        learn(shedding, shedding.key(*request()), reason=reason, deadline=deadline)
        assert shedding.find(shedding.key(*request()), now=100.0) is None


def test_a_million_paths_are_not_kept() -> None:
    shedding = Shedding()
    for i in range(3 * KNOWN_MAX):
        learn(shedding, shedding.key(*request(f"/a/f/{i}")))
    assert len(shedding._known) <= KNOWN_MAX
