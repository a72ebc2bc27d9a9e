"""Attached calls over the wire: submitted, leased, answered, acknowledged; and all of it again after a reconnect."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.protocol import messages as m
from stoker.types import Outcome
from tests.waiting import wait_until

from .harness import Peer, Running, spec


def test_a_call_goes_to_a_worker_and_its_result_comes_back(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"], b"argument")
    worker = running.worker()
    lease, parts = worker.lease()
    assert (lease.ids, lease.attempts, parts) == (["c-1.1"], [1], [b"argument"])
    worker.finish({"c-1.1": 1}, b"value")
    results, values = client.receive(m.Results)
    assert (results.seq, results.ids, results.outcomes, values) == (1, ["c-1.1"], [0], [b"value"])
    assert worker.leases.get(m.Ack).seq == 1
    client.send(m.Ack(1))
    wait_until(lambda: not len(running.server.sessions["c-1"].outbox), message="the result is forgotten")


def test_a_lease_that_comes_first_carries_the_acknowledgement(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1", "c-1.2"])
    worker = running.worker()
    assert worker.leased(1) == {"c-1.1": 1}
    worker.finish({"c-1.1": 1})
    lease, _ = worker.lease()
    assert (lease.ids, lease.acked) == (["c-1.2"], 1)


def test_an_error_travels_with_its_payload(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    error = {"type_name": "builtins.ValueError", "message": "bad"}
    worker.finish(worker.leased(1), b"pickled", outcomes=[1], errors={"0": error})
    results, parts = client.receive(m.Results)
    assert (results.outcomes, parts) == ([Outcome.ERROR], [b"pickled"])
    assert results.errors["0"].message == "bad"


def test_an_unknown_function_is_refused(client: Peer) -> None:
    client.submit("nothing", ["c-1.1"])
    refused = client.get(m.RefusedCalls)
    assert (refused.ids, refused.error.type_name) == (["c-1.1"], "NotFound")


def test_a_result_that_was_not_acknowledged_is_sent_again(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"], b"argument")
    worker = running.worker()
    worker.finish(worker.leased(1), b"value")
    client.get(m.Results)
    client.close()
    again = running.client()
    results, parts = again.receive(m.Results)
    assert (results.seq, results.ids, parts) == (1, ["c-1.1"], [b"value"])
    again.submit(key, ["c-1.1", "c-1.2"])  # it had sent both when the connection broke
    assert worker.leased(1) == {"c-1.2": 1}, "the first one is not run again"
    again.send(m.Ack(1))
    again.submit(key, ["c-1.3"], acked=1)
    worker.finish({"c-1.2": 1})
    assert again.result_of("c-1.2") == (0, b"out c-1.2")


def test_calls_submitted_again_while_they_run_are_run_once(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    attempts = worker.leased(1)
    client.close()
    again = running.client()
    again.submit(key, ["c-1.1"])
    assert again.nothing(m.Results)
    worker.finish(attempts, b"value")
    assert again.result_of("c-1.1") == (0, b"value")


def test_a_second_connection_of_a_session_takes_it_over(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    attempts = worker.leased(1)
    second = running.client()
    assert client.is_closed()
    worker.finish(attempts)
    assert second.result_of("c-1.1") == (0, b"out c-1.1")
    assert running.server.sessions["c-1"].left_at == 0.0


def test_a_worker_that_reconnects_says_what_it_holds_and_goes_on(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1", "c-1.2"])
    worker = running.worker()
    attempts = worker.leased(1)
    worker.close()
    again = running.worker(worker.id, held=list(attempts.items()), fresh=False)
    again.finish(attempts, b"value")
    assert client.result_of("c-1.1") == (0, b"value")
    assert again.leased(1) == {"c-1.2": 1}


def test_results_sent_again_are_taken_once_and_acknowledged_again(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    attempts = worker.leased(1)
    worker.finish(attempts)
    assert worker.leases.get(m.Ack).seq == 1
    worker.finish(attempts, seq=1)
    assert worker.leases.get(m.Ack).seq == 1
    assert client.result_of("c-1.1") == (0, b"out c-1.1")
    assert client.nothing(m.Results)


def test_a_worker_that_dies_has_its_call_run_again(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    running.on_loop(lambda: running.engine.fail(worker.id))
    wait_until(lambda: len(running.engine.specs) == 2, message="another worker was ordered")
    second = running.worker()
    assert second.leased(1) == {"c-1.1": 2}
    second.finish({"c-1.1": 2})
    assert client.result_of("c-1.1") == (0, b"out c-1.1")


def test_cancelling_reaches_the_worker_and_settles_at_once(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    client.send(m.Cancel(["c-1.1"]))
    asked = worker.control.get(m.CancelAttempts)
    assert (asked.ids, asked.attempts, asked.reason) == (["c-1.1"], [1], "user")
    assert client.result_of("c-1.1") == (Outcome.CANCELLED, "CallCancelled")


def test_the_window_of_maps_is_told(running: Running, client: Peer) -> None:
    key = running.register(client, spec(max_pending=10))["f"]
    client.submit(key, ["c-1.1"], kind="map")
    assert client.get(m.Window) == m.Window(key, 10)
    other = running.client("c-2")
    other.submit(key, ["c-2.1"], kind="map")
    assert client.get(m.Window).size == other.get(m.Window).size == 5


@pytest.mark.parametrize(
    "message",
    [
        m.Submit("k", ["a", "a"], [0, 0]),
        m.Submit("k", ["a"], []),
        m.Submit("k", ["a"], [1]),
        m.Submit("k", ["a"], [-1]),
        m.Submit("k", ["a"], [0], {"1": ["name", 1]}),
        m.Submit("k", ["a"], [0], {"\u00b2": ["name", 1]}),
        m.Submit("k", ["a"], [0], {"9" * 5000: ["name", 1]}),
        m.Submit("k", ["a"], [0], {"0": ["../name", 1]}),
        m.Submit("k", ["a"], [0], {"0": [".name", 1]}),
        m.Submit("k", ["a"], [0], {"0": ["name", -1]}),
        m.Submit("k", ["a"], [0], {"0": ["name"]}),
        m.Submit("k", ["a"], [0], priority=1 << 70),
        m.Results(1, [], [], []),
        m.Hello("client", "c-1", "0.1.0"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_no_client_sends_closes_its_connection_and_harms_nobody(running: Running, message: object) -> None:
    client, other = running.client("c-1"), running.client("c-2")
    client.send(message)
    assert client.get(m.Rejected).type_name == "ProtocolError"
    assert client.is_closed()
    assert other.ask("status")["mode"] == "persistent"


@pytest.mark.parametrize(
    "message",
    [
        m.Held(["c-1.1"], []),
        m.Results(1, ["c-1.1"], [0], [0], [1], []),
        m.Results(1, ["c-1.1"], [0], [0], [], [0.1]),
        m.Results(1, ["c-1.1"], [9], [0], [1], [0.1]),
        m.Results(1, ["c-1.1"], [0], [4], [1], [0.1]),
        m.Items("c-1.1", 1, 0, [3]),
        m.Ack(1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_no_worker_sends_closes_its_connection_only(
    running: Running, client: Peer, key: str, message: object
) -> None:
    client.submit(key, ["c-1.1"])
    worker = running.worker()
    attempts = worker.leased(1)
    worker.leases.send(message)
    assert worker.leases.get(m.Rejected).type_name == "ProtocolError"
    again = running.worker(worker.id, held=list(attempts.items()), fresh=False)
    again.finish(attempts)
    assert client.result_of("c-1.1") == (0, b"out c-1.1")


def test_what_no_worker_sends_on_its_control_socket(running: Running, client: Peer, key: str) -> None:
    client.submit(key, ["c-1.1"])
    for message in (m.Revoked(["c-1.1"], []), m.Held([], [])):
        worker = running.worker()
        worker.control.send(message)
        assert worker.control.get(m.Rejected).type_name == "ProtocolError"
        worker.close()
    assert client.ask("status")["workers"] == 1


def test_a_worker_is_read_while_it_does_not_read(running: Running, client: Peer, key: str) -> None:
    """Big leases and big results at once: both ends must not wait for each other."""
    running.on_loop(lambda: running.server.plane.state.pools[key].measure(1e-5))  # short: many are leased at once
    big = bytes(200 << 10)
    ids = [f"c-1.{i}" for i in range(60)]
    client.submit(key, ids, *[big] * 60)
    wait_until(lambda: len(running.server.plane.state.pools[key].queue) == 60, message="all are queued")
    worker = running.worker()
    wait_until(lambda: len(running.server.plane.state.workers[worker.id].leased) == 60, message="all are leased")
    for call_id in ids[:30]:  # nothing is read here before all of it is sent
        worker.finish({call_id: 1}, big, seconds=[1e-5])
    leased = worker.leased(60)
    worker.finish({call_id: leased[call_id] for call_id in ids[30:]})
    done: set[str] = set()
    while len(done) < 60:
        done.update(client.get(m.Results).ids)


def test_a_client_that_does_not_read_does_not_stall_others(
    start: Callable[..., Running],
) -> None:
    running = start()
    slow, quick = running.client("c-1"), running.client("c-2")
    key = running.register(slow, spec())["f"]
    slow.submit(key, [f"c-1.{i}" for i in range(40)])
    worker = running.worker()
    running.on_loop(lambda: running.server.plane.state.pools[key].measure(1e-5))
    left = 40
    while left:
        attempts = worker.leased(1)
        left -= len(attempts)
        for call_id, attempt in attempts.items():
            worker.finish({call_id: attempt}, bytes(200 << 10), seconds=[1e-5])
    quick.submit(key, ["c-2.1"])
    worker.finish(worker.leased(1))
    assert quick.result_of("c-2.1") == (0, b"out c-2.1")
    done: set[str] = set()
    while len(done) < 40:
        done.update(slow.get(m.Results).ids)
