"""Sessions outlive connections by the grace, and those of workers end with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.core.state import Limits
from stoker.protocol import messages as m
from stoker.transport.sockets import greet
from tests.waiting import wait_until

from .harness import Peer, Running, spec


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start(limits=Limits(client_grace=0.2))


def test_a_client_past_its_grace_is_forgotten_with_all_it_had(running: Running) -> None:
    client = running.client()
    key = running.register(client, spec(max_workers=1))["f"]
    (running.config.segments / "r-1").write_bytes(b"big")
    client.submit(key, ["c-1.1", "c-1.2"])
    worker = running.worker()
    worker.finish(worker.leased(1), b"", segments={"0": ["r-1", 3]})
    worker.leased(1)
    client.get(m.Results)
    assert client.welcome is not None
    assert client.welcome.grace == 0.2
    client.close()
    wait_until(lambda: "c-1" not in running.server.sessions, message="the session is forgotten")
    assert worker.control.get(m.CancelAttempts).ids == ["c-1.2"]
    worker.finish({"c-1.2": 1}, b"")
    wait_until(lambda: not running.segments(), message="the unread result is deleted")
    assert not running.server.functions.runs, "its run has ended"
    assert worker.control.get(m.Drain).reason
    other = running.client("c-2")
    assert other.ask("status")["calls"] == {"queued": 0, "running": 0, "running_once": 0, "running_http": 0}


def test_a_client_back_within_its_grace_is_not_forgotten(running: Running) -> None:
    client = running.client()
    running.register(client, spec())
    for _ in range(3):
        client.close()
        wait_until(lambda: running.server.sessions["c-1"].link is None, message="the server saw it go")
        client = running.client()
    left = running.on_loop(running.server.now)
    wait_until(lambda: running.on_loop(running.server.now) > left + 0.3, message="the graces are over")
    assert running.server.functions.runs
    assert running.server.sessions["c-1"].link is not None


def test_the_windows_of_a_client_that_comes_back_are_told_again(running: Running) -> None:
    client = running.client()
    key = running.register(client, spec(max_pending=10))["f"]
    client.submit(key, ["c-1.1"], kind="map")
    client.get(m.Window)
    client.close()
    assert running.client().get(m.Window) == m.Window(key, 10)


def test_the_session_of_a_worker_ends_with_it(running: Running) -> None:
    client = running.client()
    keys = running.register(client, spec("outer", max_workers=1, lost_retries=0), spec("inner", max_workers=1))
    client.submit(keys["outer"], ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    nested = running.client("n-1", token=worker.token)
    nested.submit(keys["inner"], ["n-1.1"], parent="c-1.1")
    wait_until(lambda: len(running.engine.specs) == 2, message="a worker for the nested call was ordered")
    inner = running.worker()
    inner.leased(1)
    running.on_loop(lambda: running.engine.fail(worker.id))
    assert inner.control.get(m.CancelAttempts).ids == ["n-1.1"]
    wait_until(lambda: "n-1" not in running.server.sessions, message="its session is forgotten")
    assert client.result_of("c-1.1") == (1, "WorkerLost")
    nested.close()
    assert client.ask("status")["workers"] == 1


def test_what_a_worker_registers_ends_with_the_program_not_with_the_worker(running: Running) -> None:
    client = running.client()
    keys = running.register(client, spec("outer"))
    client.submit(keys["outer"], ["c-1.1"])
    worker = running.worker()
    worker.leased(1)
    nested = running.client("n-1", token=worker.token)
    running.register(nested, spec("inner"))
    running.on_loop(lambda: running.engine.fail(worker.id))
    wait_until(lambda: "n-1" not in running.server.sessions, message="its session is forgotten")
    assert set(running.server.functions.runs[("app", "r1")]) == {"outer", "inner"}


def test_what_a_client_dealt_with_does_not_come_again_after_a_reconnect(running: Running) -> None:
    client = running.client()
    assert client.welcome is not None
    key = running.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1", "c-1.2"])
    worker = running.worker()
    for seq, call_id in enumerate(["c-1.1", "c-1.2"], 1):
        worker.leases.get(m.Lease)
        worker.leases.send(m.Results(seq, [call_id], [0], [5], [1], [0.1]), b"value")
    results = client.get(m.Results)
    frames = running.connect()
    welcome = greet(frames, role="client", name="c-1", connection=client.welcome.connection, seen=results.seq)
    assert welcome.connection == client.welcome.connection + 1
    assert Peer(frames).get(m.Results).ids == ["c-1.2"]
    frames = running.connect()
    greet(frames, role="client", name="c-1", connection=client.welcome.connection, seen=1)
    assert Peer(frames).get(m.Results).ids == ["c-1.2"], "seen on an older connection: that counted others"
