"""What a client says again, to a server that refused it or was restarted."""

from __future__ import annotations

import stoker
from stoker.client.calls import OpenCalls, Pending, Route, Slot
from stoker.types import ErrorInfo
from tests.client.fake_server import FakeServer


def size_of(data: bytes) -> int:
    return len(data)


def test_a_big_call_that_was_refused_for_want_of_room_is_sent_with_its_input(
    server: FakeServer, app: stoker.App
) -> None:
    function = app.function()(size_of)
    server.functions["size_of"] = size_of
    server.refusals.append(ErrorInfo("Overloaded", "full", fields={"retry_after": 0.01}))
    with app.run():
        (call,) = function.spawn_map([b"x" * 1_000_000])
        assert call.result(timeout=5) == 1_000_000
    assert len(server.submits) == 2


def test_items_of_a_restarted_servers_first_attempt_are_not_those_of_an_old_one() -> None:
    calls = OpenCalls()
    stream = Pending("c-1.1", Route("key", "f", kind="stream"), Slot())
    stream.attempt = 2
    calls.add_one(stream)
    assert list(calls.to_submit()) == [[stream]]
    assert stream.attempt == 0
