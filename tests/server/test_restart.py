"""A server of a later term, and the workers and clients of the one before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict

import pytest

from stoker.core.placement import Capacity
from stoker.engine.base import Grant, NodeInfo, NodeJoined, RunningWorker
from stoker.errors import StokerError
from stoker.protocol import messages as m
from stoker.server import restart
from stoker.store.base import PendingRow
from stoker.testing.seams import FakeEngine, MemoryBacking, MemoryStore
from tests.waiting import wait_until

from .harness import Running, spec

NODE = NodeInfo("fake", 4.0, 4 << 30, 3.0, 4 << 30)


class SurvivingEngine(FakeEngine):
    """An engine whose node is there from before the server, and has not said yet what runs on it."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = False

    def expected_nodes(self) -> list[str]:
        return [] if self.joined else ["fake"]

    async def start_up(self) -> None:
        return

    def join(self, *workers: RunningWorker) -> None:
        self.joined = True
        self._there = True
        self._up.update(worker.worker for worker in workers)
        self._listener(NodeJoined(NODE, list(workers)))


class Restarted:
    """A server that was killed while one attached and one detached call ran and a third one waited; and the next."""

    def __init__(self, start: Callable[..., Running]) -> None:
        store = MemoryStore()
        before = start(store=store)
        client = before.client()
        self.key = before.register(client, spec(max_workers=1, concurrency=2))["f"]
        client.submit(self.key, ["c-1.1"])
        client.submit(self.key, ["c-1.2", "c-1.3"], detached=True)
        client.get(m.Accepted)
        worker = before.worker()
        self.attempts = worker.leased(2)
        self.worker = worker.id
        before.on_loop(lambda: before.engine._up.clear())  # its end is not the server's doing
        self.engine = SurvivingEngine()
        self.running = start(store=MemoryStore(store.backing), engine=self.engine)

    def join(self) -> None:
        running = RunningWorker(self.worker, self.key, 4242, Grant("g-old", "fake", 1.0))
        self.running.on_loop(lambda: self.engine.join(running))


@pytest.fixture
def restarted(start: Callable[..., Running]) -> Restarted:
    return Restarted(start)


def test_running_work_is_adopted_and_settled_once(restarted: Restarted) -> None:
    running = restarted.running
    client = running.client()
    client.submit(restarted.key, ["c-1.1"])
    restarted.join()
    worker = running.worker(restarted.worker, held=list(restarted.attempts.items()), fresh=False)
    wait_until(
        lambda: running.server.plane.state.recovering_until is None, message="all that was expected has reported"
    )
    assert [row["id"] for row in client.ask("workers")] == [restarted.worker]
    wait_until(
        lambda: sorted(client.ask("workers")[0]["running"]) == ["c-1.1", "c-1.2"],
        message="the detached call to be read back",
    )
    assert [entry["event"] for entry in client.ask("call", id="c-1.1")["timeline"]] == ["queued", "adopted", "running"]
    worker.finish(restarted.attempts)
    assert client.result_of("c-1.1") == (0, b"out c-1.1")
    assert client.result_of("c-1.2") == (0, b"out c-1.2")
    assert worker.leased(1).keys() == {"c-1.3"}


def test_a_worker_that_is_back_before_its_node_is_asked_to_come_again(restarted: Restarted) -> None:
    """Told to drain, it would end, and a warm worker with running work would be lost to a race."""
    running = restarted.running
    with pytest.raises(StokerError, match="has not heard yet"):
        running.worker(restarted.worker, held=list(restarted.attempts.items()), fresh=False)
    restarted.join()
    worker = running.worker(restarted.worker, held=list(restarted.attempts.items()), fresh=False)
    client = running.client()
    client.submit(restarted.key, ["c-1.1"])
    worker.finish(restarted.attempts)
    assert client.result_of("c-1.1") == (0, b"out c-1.1")
    worker.leased(1)


def test_nothing_is_leased_before_it_is_known_what_still_runs(restarted: Restarted) -> None:
    running = restarted.running
    client = running.client()
    client.submit(restarted.key, ["c-1.1"])
    assert client.ask("call", id="c-1.1")["why"] == "the server was restarted and waits to hear what still runs"
    assert not restarted.engine.specs
    running.on_loop(lambda: restarted.engine.join())  # nothing of it lives
    wait_until(lambda: restarted.engine.specs, message="a worker was ordered")
    worker = running.worker()
    taken = worker.leased(2)
    worker.finish(taken)
    taken.update(worker.leased(1))
    assert taken.keys() == {"c-1.1", "c-1.2", "c-1.3"}


def test_a_result_of_a_call_not_known_yet_waits_for_its_client(restarted: Restarted) -> None:
    running = restarted.running
    restarted.join()
    worker = running.worker(restarted.worker, held=[], fresh=False)
    worker.finish({"c-1.1": restarted.attempts["c-1.1"]}, b"value")
    assert worker.is_acknowledged(1)  # with what was read back meanwhile, if that was leased in the same breath
    client = running.client()
    client.submit(restarted.key, ["c-1.1"])
    assert client.result_of("c-1.1") == (0, b"value")


def test_a_worker_nobody_knows_any_more_is_told_to_end(restarted: Restarted) -> None:
    running = restarted.running
    running.on_loop(lambda: restarted.engine.join())
    stray = running.worker("w1-99", held=[("c-9.9", 1)], fresh=False)
    assert "does not know the worker" in stray.control.get(m.Drain).reason


def test_what_the_node_has_left_is_not_given_twice(restarted: Restarted) -> None:
    restarted.join()
    node = restarted.running.server.plane.state.nodes["fake"]
    assert node.free_of_others == Capacity(4.0, 4 << 30), "what is free, and what we hold of it"
    assert node.free().cpus == 3.0


class SlowStore(MemoryStore):
    """A store whose accepted calls are read back only when the test says so."""

    def __init__(self, backing: MemoryBacking) -> None:
        super().__init__(backing)
        self.readable = threading.Event()

    def pending(self, *, after_seq: int, limit: int) -> list[PendingRow]:
        assert self.readable.wait(10.0)
        return super().pending(after_seq=after_seq, limit=limit)


class Reading:
    """A restarted server that has not read back yet what was accepted before it."""

    def __init__(self, start: Callable[..., Running]) -> None:
        store = MemoryStore()
        before = start(store=store, engine=FakeEngine(automatic=False))
        client = before.client()
        self.key = before.register(client, spec())["f"]
        client.submit(self.key, ["c-1.1", "c-1.2"], detached=True)
        client.get(m.Accepted)
        self.store = SlowStore(store.backing)
        self.running = start(store=self.store)

    def state_of(self, call_id: str) -> str:
        record = self.store.call(call_id)
        assert record is not None
        return record.settled.state.value if record.settled else "pending"


def test_a_cancel_of_a_call_that_is_not_read_back_yet_is_kept(start: Callable[..., Running]) -> None:
    reading = Reading(start)
    client = reading.running.client()
    client.send(m.Cancel(["c-1.1"]))
    assert client.nothing(m.Results)
    reading.store.readable.set()
    worker = reading.running.worker()
    assert worker.leased(1).keys() == {"c-1.2"}
    wait_until(lambda: reading.state_of("c-1.1") == "cancelled", message="it was cancelled")


def test_a_cancel_is_answered_when_it_is_known_what_it_met(start: Callable[..., Running]) -> None:
    reading = Reading(start)
    client = reading.running.client()
    client.send(m.Request(99, "cancel", {"ids": ["c-1.1", "c-7.7"]}))
    assert client.nothing(m.Reply)
    reading.store.readable.set()
    reply = client.get(m.Reply)
    assert (reply.id, reply.result) == (99, {"cancelled": ["c-1.1"]})
    assert reading.state_of("c-1.1") == "cancelled"
    assert client.ask("cancel", ids=["c-1.1", "c-7.7"]) == {"cancelled": []}


def test_a_call_of_an_old_version_is_run_by_that_version_after_a_restart(start: Callable[..., Running]) -> None:
    store = MemoryStore()
    before = start(store=store, engine=FakeEngine(automatic=False))
    client = before.client()
    old = [asdict(spec(run_id=""))]
    client.ask("deploy", app="app", functions=old)
    key = client.ask("lookup", app="app", name="f")["key"]
    client.submit(key, ["c-1.1"], detached=True)
    client.get(m.Accepted)
    client.ask("deploy", app="app", functions=[asdict(spec(run_id="", cpu=0.5))])
    running = start(store=MemoryStore(store.backing))
    worker = running.worker()
    assert worker.leased(1).keys() == {"c-1.1"}
    assert running.engine.specs[worker.id].function.key == key


def test_functions_that_nothing_needs_are_forgotten_and_others_are_not(start: Callable[..., Running]) -> None:
    running = start(store=MemoryStore())
    server = running.server
    client, other = running.client("c-1"), running.client("c-2")
    gone = running.register(client, spec("gone", run_id="r1"))["gone"]
    here = running.register(other, spec("here", run_id="r2"))["here"]
    client.ask("end_run", app="app", run_id="r1")

    def prune(later: float) -> None:
        server.wall_offset += later
        running.on_loop(lambda: restart.prune_functions(server))

    prune(0.0)
    prune(server.config.retention + 1.0)
    wait_until(lambda: gone not in server.functions.specs, message="it was forgotten")
    assert server.store.function(gone) is None
    assert here in server.functions.specs
    assert server.store.function(here) is not None
