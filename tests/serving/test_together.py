"""What requests ask for in one turn of the loop reaches the core in their order, like calls as one event."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from stoker.core import events as e
from stoker.server.gateway.web_calls import DECIDED_TOGETHER, WebCall, WebCalls

SPEC: Any = SimpleNamespace(options=SimpleNamespace(deadline=None, priority=0))


class Server:
    """What `WebCalls` needs of one. ``decided`` has the events of each decision."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.epoch = 1
        self.sessions: dict[str, Any] = {}
        self.functions = SimpleNamespace(beside={}, specs={})
        self.plane = SimpleNamespace(state=SimpleNamespace(pools={}))
        self.decided: list[list[e.Event]] = []

    now = staticmethod(lambda: 0.0)
    flush = staticmethod(lambda: None)
    discard = staticmethod(lambda payloads: None)

    def decide(self, *events: e.Event) -> None:
        self.decided.append([*events])


def ask(calls: WebCalls, key: str = "f", **more: Any) -> WebCall:
    return calls.submit(SPEC, key, b"", **{"holder": "t", "deadline": None, **more})


async def test_like_calls_are_one_event_and_each_keeps_its_trace() -> None:
    server: Any = Server()
    calls = WebCalls(server)
    made = [ask(calls, trace="1"), ask(calls, trace="2"), ask(calls, "g", trace="3"), ask(calls, trace="4")]
    await asyncio.sleep(0)
    ((first, second, third),) = server.decided
    assert first.ids == [made[0].id, made[1].id] and first.traces == ["1", "2"]
    assert (second.function, second.ids) == ("g", [made[2].id])
    assert third.ids == [made[3].id], "it came after another's"


async def test_nothing_is_put_before_what_was_asked_for_earlier() -> None:
    server: Any = Server()
    calls = WebCalls(server)
    one = ask(calls)
    calls.cancel(one)
    two, three = ask(calls), ask(calls, deadline=1.0)
    four = ask(calls, holder="other")
    await asyncio.sleep(0)
    (events,) = server.decided
    assert [type(event) for event in events] == [e.Submitted, e.CancelAsked, *3 * [e.Submitted]]
    assert [event.ids for event in events] == [[one.id], [one.id], [two.id], [three.id], [four.id]]


async def test_many_are_decided_at_once_and_the_others_with_the_turn() -> None:
    server: Any = Server()
    calls = WebCalls(server)
    made = [ask(calls) for _ in range(DECIDED_TOGETHER + 1)]
    assert [[len(event.ids) for event in events] for events in server.decided] == [[DECIDED_TOGETHER]]
    await asyncio.sleep(0)
    assert server.decided[1][0].ids == [made[-1].id], "nothing joins what was decided"
