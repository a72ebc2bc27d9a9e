"""Interleavings that once lost something: a call, an item, a worker's place."""

from __future__ import annotations

import gc

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.calls import Call, Result, Segment
from stoker.core.placement import Capacity
from stoker.core.plane import CallPlane
from stoker.core.pools import WorkerState
from stoker.types import CallState, Outcome

from .world import NODE, World, spec

DONE = Result(Outcome.VALUE, b"v", None, 0.01)


class Restarted:
    """A plane of a second term, to which a worker of the first one comes back."""

    def __init__(self, *, cpus: float = 2.0) -> None:
        self.now = 100.0
        self.plane = CallPlane(prefix="w2-", now=self.now)
        function = spec()
        self.key = function.key
        self.step(e.RecoveryBegan([NODE], self.now + 30.0), e.FunctionDeclared(function, self.key))
        size = Capacity(cpus, 1 << 30)
        self.step(e.NodeReported(NODE, size, size, [("w1-1", self.key, Capacity(1.0, 0))]))

    def step(self, *events: e.Event, after: float = 0.0) -> list[c.Command]:
        self.now += after
        return self.plane.handle(events, self.now)

    def submit(self, call_id: str = "x", **more: object) -> list[c.Command]:
        more = {"kind": "stream", **more}
        return self.step(e.Submitted("c1", self.key, [call_id], [b""], **more))  # type: ignore[arg-type]


def items_of(commands: list[c.Command]) -> list[object]:
    return [x for command in commands if isinstance(command, c.DeliverItems) for x in command.payloads]


def test_items_of_a_stream_wait_for_a_client_that_is_back_after_its_worker() -> None:
    world = Restarted()
    world.step(e.WorkerConnected("w1-1", [("x", 1)]))
    assert not items_of(world.step(e.ItemsCame("w1-1", "x", 1, 40, [b"40", b"41"])))
    assert items_of(world.submit()) == [b"40", b"41"]
    assert items_of(world.step(e.ItemsCame("w1-1", "x", 1, 42, [b"42"]))) == [b"42"]


def test_items_of_a_stream_that_had_ended_wait_for_its_client() -> None:
    world = Restarted()
    world.step(e.WorkerConnected("w1-1", []))
    world.step(e.ItemsCame("w1-1", "x", 1, 0, [b"0"]), e.AttemptsEnded("w1-1", ["x"], [1], [DONE]))
    commands = world.submit()
    assert items_of(commands) == [b"0"]
    assert [d.id for x in commands if isinstance(x, c.Deliver) for d in x.deliveries] == ["x"]


def test_items_of_a_stream_that_had_ended_are_not_lost_where_its_client_is_back_first() -> None:
    world = Restarted()
    world.submit()
    commands = world.step(
        e.WorkerConnected("w1-1", []),
        e.ItemsCame("w1-1", "x", 1, 0, [b"0"]),
        e.AttemptsEnded("w1-1", ["x"], [1], [DONE]),
    )
    assert items_of(commands) == [b"0"]
    assert any(isinstance(x, c.Deliver) for x in commands)


def test_items_nobody_asks_for_are_deleted() -> None:
    world = Restarted()
    item = Segment("r-1", 9)
    world.step(e.WorkerConnected("w1-1", [("x", 1)]), e.ItemsCame("w1-1", "x", 1, 0, [item]))
    commands = world.step(e.Tick(), after=61.0)
    assert [x.payloads for x in commands if isinstance(x, c.Discard)] == [[item]]
    assert not world.plane.state.held


def test_items_sent_again_keep_the_files_that_their_reader_has_not_opened() -> None:
    world = Restarted()
    world.submit()
    first, again = Segment("r-1", 9), Segment("r-2", 9)
    world.step(e.WorkerConnected("w1-1", [("x", 1)]), e.ItemsCame("w1-1", "x", 1, 0, [first]))
    commands = world.step(e.ItemsCame("w1-1", "x", 1, 0, [first, again]))
    assert not any(isinstance(x, c.Discard) for x in commands)
    assert items_of(commands) == [again]


def test_an_adopted_call_lends_its_cores_to_calls_that_came_back_before_it() -> None:
    world = Restarted(cpus=1.0)
    world.step(e.WorkerConnected("w1-1", [("x", 1)]))
    world.submit("child", kind="call", parent="x")
    commands = world.submit("x", kind="call")
    assert c.LendCpus("w1-1", True) in commands


def test_what_a_stray_was_is_not_taken_from_the_worker_that_runs_it_now() -> None:
    world = World(cpus=1.0)
    key = world.declare(spec(max_workers=1))
    world.submit(["warm"], key=key)
    (first,) = world.workers
    world.connect(first)
    world.finish(first, "warm", Result(Outcome.VALUE, b"", None, 0.0001))
    world.submit(["a", "b"], key=key)
    assert list(world.workers[first].leases) == ["a", "b"]
    world.step(e.WorkerDisconnected(first))
    del world.workers[first].leases["b"]  # its lease was under way when the connection broke
    world.connect(first)
    world.kill(first)
    (second,) = world.workers
    world.connect(second)
    world.finish(second, "a", Result(Outcome.VALUE, b"", None, 0.0001))
    assert list(world.workers[second].leases) == ["b"]
    world.step(e.Tick(), after=1.1)
    assert world.plane.state.calls["b"].state is CallState.LEASED
    assert list(world.plane.state.workers[second].leased) == ["b"]


def test_a_call_cancelled_while_its_worker_was_away_leaves_no_place_taken() -> None:
    world = World(cpus=1.0)
    key = world.declare(spec(max_workers=1))
    world.submit(["a"], key=key)
    (worker,) = world.workers
    world.connect(worker)
    world.step(e.WorkerDisconnected(worker))
    world.workers[worker].leases.clear()
    world.step(e.CancelAsked(["a"]))
    world.connect(worker)
    world.submit(["b"], key=key)
    world.sleep(2.0)
    assert list(world.workers[worker].leases) == ["b"]


def test_a_drained_worker_that_does_not_end_after_a_long_call_is_stopped() -> None:
    world = World(cpus=1.0)
    long, other = world.declare(spec("long")), world.declare(spec("other"))
    world.submit(["a"], key=long)
    (worker,) = world.workers
    world.connect(worker)
    world.submit(["b"], key=other)
    world.sleep(30.0)
    assert world.plane.state.workers[worker].state is WorkerState.DRAINING
    world.finish(worker, "a")
    assert not world.workers[worker].stopped
    world.sleep(11.0)
    assert world.workers[worker].stopped


def test_an_order_to_stop_that_was_lost_with_its_agent_is_given_again() -> None:
    world = World(cpus=1.0)
    key = world.declare(spec())
    world.submit(["a"], key=key)
    (worker,) = world.workers
    world.connect(worker)
    world.step(e.CancelAsked(["a"], force=True))
    running = [(worker, key, Capacity(1.0, 0))]
    commands = world.step(e.NodeReported(NODE, world.size, world.size, running))
    assert [x.worker for x in commands if isinstance(x, c.StopWorker)] == [worker]
    commands = world.step(e.NodeReported(NODE, world.size, world.size, running, anew=False))
    assert not any(isinstance(x, c.StopWorker) for x in commands)


def test_calls_that_were_cancelled_in_the_queue_are_let_go_of() -> None:
    world = World(cpus=0.5)
    key = world.declare(spec(cpu=0.5))
    world.submit(["a"], key=key)
    (worker,) = world.workers
    world.connect(worker)
    many = [f"b{i}" for i in range(1000)]
    world.submit(many, key=key, kind="map")
    world.step(e.CancelAsked(many))
    queue = world.plane.state.pools[key].queue
    assert not len(queue)
    assert not queue._levels


def test_a_deadline_that_passes_during_the_commit_counts() -> None:
    world = World(cpus=1.0)
    key = world.declare(spec())
    world.submit(["a"], key=key, detached=True, deadline=world.now + 1.0)
    world.sleep(2.0)
    world.write()
    assert world.plane.state.calls["a"].state is CallState.FAILED


def test_a_deadline_keeps_no_settled_calls() -> None:
    world = World(cpus=1.0)
    key = world.declare(spec())
    world.submit(["kept?"], key=key, deadline=world.now + 3600.0)
    (worker,) = world.workers
    world.connect(worker)
    world.finish(worker, "kept?")
    world.log.clear()
    world.results.clear()
    gc.collect()
    assert not [x for x in gc.get_objects() if isinstance(x, Call) and x.id == "kept?"]


def test_a_call_cancelled_before_its_commit_failed_is_told_once() -> None:
    world = World(cpus=1.0)
    key = world.declare(spec())
    world.submit(["a"], key=key, detached=True)
    world.step(e.CancelAsked(["a"]))
    world.write(fail=True)
    assert "a" not in world.refused
    world.write()
    assert len(world.results["a"]) == 1
    assert not world.plane.state.calls


def test_a_start_on_its_way_survives_a_broken_link_to_its_agent() -> None:
    world = World(cpus=1.0)
    key = world.declare(spec())
    world.submit(["a"], key=key)
    (worker,) = world.workers
    world.step(e.NodeReported(NODE, world.size, world.size, (), starting=[worker]))
    assert list(world.plane.state.workers) == [worker]
    world.connect(worker)
    assert list(world.workers[worker].leases) == ["a"]


def test_a_start_that_nobody_waits_for_any_more_is_called_off() -> None:
    world = World(cpus=1.0)
    commands = world.step(e.NodeReported(NODE, world.size, world.size, (), starting=["w0-1"]))
    assert [x.worker for x in commands if isinstance(x, c.StopWorker)] == ["w0-1"]
