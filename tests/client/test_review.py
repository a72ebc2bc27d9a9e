"""What a client says again, to a server that refused it or was restarted."""

from __future__ import annotations

import stoker
from stoker.client.calls import OpenCalls, Pending, Route, Slot
from stoker.client.connection import Connection, SocketEndpoint
from stoker.client.dispatch import Dispatcher
from stoker.protocol.messages import Results
from stoker.transport.sockets import Received
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


def test_a_restarted_server_is_told_again_what_was_made_of_a_deployed_function(
    server: FakeServer, app: stoker.App
) -> None:
    app.function()(size_of)
    server.functions["size_of"] = size_of
    with app.run():
        deployed = stoker.Function.from_name("test", "size_of").with_options(deadline=5)
        assert deployed.remote(b"x") == 1
        server.restart(forget=True)
        assert deployed.remote(b"xy") == 2
    told = [request.params["functions"][0] for request in server.requests if request.verb == "register"]
    assert [one["options"]["deadline"] for one in told] == [None, 5.0, None, 5.0]


def test_a_restarted_server_is_not_told_of_runs_that_are_over(server: FakeServer, app: stoker.App) -> None:
    function = app.function()(size_of)
    server.functions["size_of"] = size_of
    with stoker.App("around").run():  # which keeps the connection
        for _ in range(2):
            with app.run():
                assert function.remote(b"x") == 1
        with app.run():
            server.restart(forget=True)
            assert function.remote(b"xy") == 2
    runs = [request.params["run_id"] for request in server.requests if request.verb == "register"]
    assert len(runs) == 4 and len({*runs}) == 3 and runs[2] == runs[3]


def test_a_result_whose_file_is_gone_is_that_calls_error_only(server: FakeServer) -> None:
    connection = Connection(SocketEndpoint(server.path), "c-1")
    connection.segments = server.segments
    slots = [Slot(), Slot()]
    for i, slot in enumerate(slots):
        connection.calls.add_one(Pending(f"c-1.{i}", Route("key", "f"), slot))
    results = Results(1, ["c-1.0", "c-1.1"], [0, 0], [0, 2], segments={"0": ["r-gone", 9]})
    Dispatcher(connection, lambda notice: None, lambda offer: None)(Received(results, b"ok"))
    assert slots[0].settled is not None and slots[0].settled.error is not None
    assert slots[0].settled.error.type_name == "NotFound"
    assert slots[1].settled is not None and bytes(slots[1].settled.data) == b"ok"
    assert connection.seen == 1


def test_items_of_a_restarted_servers_first_attempt_are_not_those_of_an_old_one() -> None:
    calls = OpenCalls()
    stream = Pending("c-1.1", Route("key", "f", kind="stream"), Slot())
    stream.attempt = 2
    calls.add_one(stream)
    assert list(calls.to_submit()) == [[stream]]
    assert stream.attempt == 0
