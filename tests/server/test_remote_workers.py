"""Workers on other machines, as the server sees them: what they may name, and what becomes of old connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stoker.core.pools import WorkerState
from stoker.engine.base import NodeGone, NodeJoined, RunningWorker
from stoker.errors import NotFound
from stoker.protocol import messages as m
from stoker.transport.addresses import Address
from tests.waiting import wait_until

from .harness import Running, ScriptedWorker, spec

BIG = bytes(1000)
HERE = Address("127.0.0.1", 0)


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start(listen=HERE)


def test_a_worker_elsewhere_names_payloads_of_its_own_only(running: Running) -> None:
    client = running.client()
    key = running.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1"])
    worker = running.worker(remote=True)
    worker.leased(1)
    other = running.config.segments / "r-w9-9-1"
    other.write_bytes(b"another app's")
    worker.leases.send(m.Results(1, ["c-1.1"], [0], [0], [1], [0.1], {"0": ["r-w9-9-1", 13]}))
    assert worker.leases.is_closed()
    assert other.exists()
    again = running.worker(worker.id, held=[("c-1.1", 1)], fresh=False, remote=True)
    again.leases.send(m.Items("c-1.1", 1, 0, [0], {"0": ["r-w9-9-1", 13]}))
    assert again.leases.is_closed()
    assert other.exists()


def test_the_end_of_an_old_connection_says_nothing_of_a_worker_that_is_back(running: Running) -> None:
    client = running.client()
    key = running.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1"])
    old = running.worker()
    old.leased(1)
    server, workers = running.server, running.server.plane.state.workers

    def cut_off() -> None:
        """Have a lease half written to a worker that does not read, when its node is given up; then it is back."""
        link = server.worker_links(old.id).leases
        assert link is not None and link._transport is not None
        link._transport.write(b"\0" * (64 << 20))
        grant, (node,) = server.executor.grants[old.id], server.engine.nodes()
        server.engine_event(NodeGone(node.node, "nothing was heard of it"))
        assert old.id not in workers
        server.engine_event(NodeJoined(node, [RunningWorker(old.id, key, 1, grant)]))

    running.on_loop(cut_off)
    again = running.worker(old.id, held=[("c-1.1", 1)], fresh=False)
    wait_until(lambda: workers[again.id].state is WorkerState.READY, message="the worker is back")
    links = running.on_loop(lambda: len(server.links))
    old.close()
    wait_until(lambda: len(server.links) < links, message="the end of the old connection")
    assert workers[again.id].state is WorkerState.READY


def test_a_result_that_is_sent_again_after_its_node_was_given_up_takes_nothing_away(running: Running) -> None:
    """The store names the very file that it was sent with."""
    client = running.client()
    key = running.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1"], detached=True)
    worker = running.worker(remote=True)
    worker.leased(1)
    server, name = running.server, f"r-{worker.id}-1"

    def finish(by: ScriptedWorker) -> None:
        by.leases.send(m.PutSegment(name, [len(BIG)], 1), BIG)
        by.leases.send(m.Results(1, ["c-1.1"], [0], [0], [1], [0.1], {"0": [name, len(BIG)]}))

    finish(worker)
    kept = running.config.spill / name
    wait_until(kept.exists, message="the result is stored")
    assert client.get(m.Results).ids == ["c-1.1"]

    def cut_off() -> None:
        server.plane.state.started -= 3600.0  # no call of an earlier term can come any more
        grant, (node,) = server.executor.grants[worker.id], server.engine.nodes()
        server.engine_event(NodeGone(node.node, "nothing was heard of it"))
        server.engine_event(NodeJoined(node, [RunningWorker(worker.id, key, 1, grant)]))

    running.on_loop(cut_off)
    again = running.worker(worker.id, fresh=False, remote=True)
    finish(again)
    assert again.leases.get(m.Ack).seq == 1
    running.on_loop(lambda: server.file_thread.submit(int).result())
    assert kept.read_bytes() == BIG


def test_an_item_that_was_read_is_not_kept_when_it_is_sent_again(running: Running) -> None:
    client = running.client()
    key = running.register(client, spec("g", kind="generator", max_workers=1))["g"]
    client.submit(key, ["c-1.1"], kind="stream")
    worker = running.worker(remote=True)
    worker.leased(1)
    name = f"r-{worker.id}-1"

    def give(by: ScriptedWorker) -> None:
        by.leases.send(m.PutSegment(name, [len(BIG)]), BIG)
        by.leases.send(m.Items("c-1.1", 1, 0, [0], {"0": [name, len(BIG)]}))

    give(worker)
    assert client.get(m.Items).segments == {"0": [name, len(BIG)]}
    client.send(m.StreamCredit("c-1.1", 64 + 1))
    worker.leases.get(m.StreamCredit)
    wait_until(lambda: name not in running.segments(), message="what was read is deleted")
    worker.close()
    again = running.worker(worker.id, held=[("c-1.1", 1)], fresh=False, remote=True)
    give(again)
    again.finish({"c-1.1": 1}, b"")
    assert client.result_of("c-1.1") == (0, b"")
    wait_until(lambda: name not in running.segments(), message="nobody will read it", timeout=5.0)


def test_a_worker_that_is_back_before_its_node_waits_for_it(running: Running) -> None:
    """It would be told to end, and what it runs would be run twice to the end."""
    client = running.client()
    key = running.register(client, spec(max_workers=1))["f"]
    client.submit(key, ["c-1.1"])
    worker = running.worker(remote=True)
    worker.leased(1)
    server = running.server
    grant, (node,) = server.executor.grants[worker.id], server.engine.nodes()
    running.on_loop(lambda: server.engine_event(NodeGone(node.node, "nothing was heard of it")))
    with pytest.raises(NotFound, match="has not heard again"):
        running.worker(worker.id, held=[("c-1.1", 1)], fresh=False, remote=True)
    running.on_loop(lambda: server.engine_event(NodeJoined(node, [RunningWorker(worker.id, key, 1, grant)])))
    again = running.worker(worker.id, held=[("c-1.1", 1)], fresh=False, remote=True)
    again.finish({"c-1.1": 1}, b"once")
    assert client.result_of("c-1.1") == (0, b"once")
