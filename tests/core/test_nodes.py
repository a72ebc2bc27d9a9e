"""Several nodes: one is taken away, is lost, or comes back with what it runs; and what waits for room on none."""

from __future__ import annotations

from dataclasses import replace

from stoker.core import commands as c
from stoker.core import events as e
from stoker.core.placement import Capacity
from stoker.core.pools import WorkerState
from stoker.core.unmet import ROOMS_MAX, unmet
from stoker.types import CallState, GangSpec, Growth

from .world import World, spec

SIZE = Capacity(2.0, 1 << 30)
OTHER = "n2"


def two_nodes(*, growth: Growth = Growth.NEVER) -> World:
    world = World(cpus=2.0)
    world.step(e.GrowthChanged(growth))
    world.step(e.NodeReported(OTHER, SIZE, SIZE, address="10.0.0.2"))
    return world


def busy(world: World, count: int = 4) -> str:
    """Have this many workers, each with a call; two fit on a node."""
    key = world.declare(spec())
    world.submit([f"c{i}" for i in range(count)], key=key)
    world.connect_all()
    return key


def on(world: World, node: str) -> list[str]:
    return [worker.id for worker in world.plane.state.workers.values() if worker.node == node]


def lose(world: World, node: str) -> None:
    """Have a node silent for its lease: its workers run on, and the core counts them as lost."""
    world.step(e.NodeLost(node, "nothing was heard of it"))


def test_a_node_that_is_taken_away_finishes_what_it_runs_and_gets_nothing_more() -> None:
    world = two_nodes()
    key = busy(world)
    commands = world.step(e.NodeDraining(OTHER, "the cluster takes it away"))
    leaving = on(world, OTHER)
    assert sorted(x.worker for x in commands if isinstance(x, c.DrainWorker)) == sorted(leaving)
    assert not [x for x in commands if isinstance(x, c.StopWorker)]
    world.submit([f"d{i}" for i in range(4)], key=key)
    for worker in leaving:
        (call,) = world.workers[worker].leases
        world.finish(worker, call)
        assert world.workers[worker].leases == {}
        world.kill(worker, cause="exit")
    world.sleep(1.0)
    assert on(world, OTHER) == []
    world.settle_everything()
    assert len(world.results) == 8


def test_draining_is_said_once() -> None:
    world = two_nodes()
    busy(world)
    world.step(e.NodeDraining(OTHER, "why"))
    assert world.step(e.NodeDraining(OTHER, "why")) == []
    assert world.step(e.NodeDraining("nowhere", "why")) == []


def test_what_ran_on_a_lost_node_runs_elsewhere_and_is_settled_once() -> None:
    world = two_nodes()
    busy(world)
    lost = on(world, OTHER)
    held = {worker: dict(world.workers[worker].leases) for worker in lost}
    lose(world, OTHER)
    assert not set(lost) & set(world.plane.state.workers)
    world.settle_everything()
    assert len(world.results) == 4
    # The node was only cut off: it comes back with its workers, which have ended what was run elsewhere meanwhile.
    key = next(iter(world.plane.state.pools))
    capacity = Capacity(1.0, 0)
    world.step(e.NodeReported(OTHER, SIZE, SIZE, [(worker, key, capacity) for worker in lost]))
    for worker in lost:
        world.step(e.WorkerConnected(worker, list(held[worker].items())))
    assert all(world.plane.state.workers[worker].state is WorkerState.READY for worker in lost)
    world.submit(["late"], key=key)
    world.settle_everything()
    assert len(world.results["late"]) == 1


def test_what_a_node_that_was_cut_off_runs_still_is_cancelled_there() -> None:
    world = two_nodes()
    key = busy(world, count=3)
    (worker,) = on(world, OTHER) if len(on(world, OTHER)) == 1 else on(world, OTHER)[:1]
    held = dict(world.workers[worker].leases)
    lose(world, OTHER)
    for here in [w for w in world.plane.state.workers if world.workers[w].leases]:
        world.finish(here, next(iter(world.workers[here].leases)))
    (call,) = held
    assert world.plane.state.calls[call].state is CallState.LEASED
    world.step(e.NodeReported(OTHER, SIZE, SIZE, [(worker, key, Capacity(1.0, 0))]))
    commands = world.step(e.WorkerConnected(worker, list(held.items())))
    assert [(x.worker, list(x.ids)) for x in commands if isinstance(x, c.CancelRunning)] == [(worker, [call])]


def test_a_node_lost_while_a_server_waits_for_it_is_not_waited_for() -> None:
    world = World()
    world.step(e.RecoveryBegan([OTHER], world.now + 30.0))
    assert world.plane.state.recovering_until is not None
    lose(world, OTHER)
    assert world.plane.state.recovering_until is None


def test_where_a_node_is_reached_is_known() -> None:
    assert two_nodes().plane.state.nodes[OTHER].address == "10.0.0.2"


def test_what_waits_for_room_is_told() -> None:
    world = two_nodes(growth=Growth.BY_ITSELF)
    busy(world, count=12)
    world.sleep(1.0)
    rooms = unmet(world.plane.state)
    assert rooms and all(room == Capacity(1.0, 0) for room in rooms)
    assert len(rooms) <= 8
    world.settle_everything()
    assert unmet(world.plane.state) == []


def test_what_no_node_could_hold_waits_where_nodes_may_come() -> None:
    world = two_nodes(growth=Growth.BY_ITSELF)
    key = world.declare(spec(cpu=64.0))
    world.submit(["a"], key=key)
    world.sleep(5.0)
    assert unmet(world.plane.state) == [Capacity(64.0, 0)]
    big = Capacity(64.0, 1 << 30)
    world.step(e.NodeReported("n3", big, big))
    world.sleep(1.0)
    assert on(world, "n3") and unmet(world.plane.state) == []


def test_what_no_node_could_hold_is_refused_where_nodes_come_by_hand() -> None:
    world = two_nodes(growth=Growth.BY_HAND)
    key = world.declare(spec(cpu=64.0))
    world.submit(["a"], key=key)
    gang = world.declare(spec("g", gang=GangSpec(6, 6)))
    world.submit(["b"], key=gang)
    assert "64 CPUs (the largest node has 2)" in world.refused["a"].message
    assert "of which 4 fit on the 2 nodes" in world.refused["b"].message
    assert "add a node" in world.refused["a"].message


def test_what_was_taken_in_waits_for_its_node_to_come_back_and_says_so() -> None:
    world = two_nodes(growth=Growth.BY_HAND)
    big = Capacity(8.0, 1 << 30)
    world.step(e.NodeReported("n3", big, big))
    key = world.declare(spec(cpu=8.0))
    world.submit(["a"], key=key, detached=True)
    world.write()
    lose(world, "n3")
    world.sleep(5.0)
    assert world.plane.state.calls["a"].state is CallState.QUEUED
    told = [command.detail for command in world.log if isinstance(command, c.TellPhase) and command.phase == "waiting"]
    assert told == ["for a node to be added: it asks for 8 CPUs (the largest node has 2)"]
    world.step(e.NodeReported("n3", big, big))
    world.settle_everything()
    assert len(world.results["a"]) == 1


def test_what_waits_without_any_node_says_so() -> None:
    world = two_nodes(growth=Growth.BY_HAND)
    lose(world, OTHER)
    lose(world, "n1")
    world.submit(["a"], key=world.declare(spec()))
    world.sleep(5.0)
    told = [command.detail for command in world.log if isinstance(command, c.TellPhase)]
    assert told == ["for a node to join"]


def test_without_any_node_all_that_is_wanted_is_told() -> None:
    world = two_nodes(growth=Growth.BY_ITSELF)
    lose(world, OTHER)
    lose(world, "n1")
    key = world.declare(spec(max_workers=3))
    world.submit([f"c{i}" for i in range(10)], key=key)
    world.sleep(1.0)
    assert unmet(world.plane.state) == [Capacity(1.0, 0)] * 3


def test_all_ranks_of_a_gang_are_asked_for() -> None:
    world = two_nodes(growth=Growth.BY_ITSELF)
    key = world.declare(spec(gang=GangSpec(6, 6)))
    world.submit(["a"], key=key)
    world.sleep(1.0)
    assert unmet(world.plane.state) == [Capacity(1.0, 0)] * 6


def test_what_is_told_is_bounded() -> None:
    world = two_nodes(growth=Growth.BY_ITSELF)
    key = world.declare(spec())
    world.submit([f"c{i}" for i in range(1000)], key=key)
    world.sleep(1.0)
    assert len(unmet(world.plane.state)) <= ROOMS_MAX


def test_idle_workers_make_room_though_a_busy_one_is_on_its_way_out() -> None:
    world = World(cpus=2.0)
    long, short = world.declare(spec("long")), world.declare(spec("short"))
    world.submit(["l1", "l2"], key=long)
    world.connect_all()
    world.submit(["s1"], key=short)
    world.sleep(1.0)
    assert [w.leases for w in world.workers.values() if w.draining] == [{"l1": 1}], "asked to make room after its call"
    world.step(e.NodeReported(OTHER, SIZE, SIZE))
    world.connect_all()
    (worker,) = on(world, OTHER)
    world.finish(worker, "s1")
    world.submit(["l3", "l4"], key=long)
    world.sleep(1.0)
    world.connect_all()
    assert world.workers[worker].draining, "l1 may take as long as it takes: it is the idle worker that goes"


def test_a_gang_that_gathers_is_lost_with_a_node_that_has_two_of_its_ranks() -> None:
    world = two_nodes(growth=Growth.BY_ITSELF)
    key = world.declare(spec(gang=GangSpec(4, 4)))
    world.submit(["a"], key=key)
    world.connect_all()
    ranks = on(world, OTHER)
    assert len(ranks) == 2 and all(world.workers[rank].gather for rank in ranks)
    lose(world, OTHER)
    assert not set(ranks) & set(world.plane.state.workers)
    assert world.plane.state.calls["a"].state is CallState.QUEUED


def test_a_version_that_is_to_take_over_has_room_asked_for_although_no_call_waits_there() -> None:
    world = World(cpus=2)
    world.plane.state.growth = Growth.BY_ITSELF
    old = world.declare(replace(spec(), kind="class", version=1))
    world.submit(["a"], key=old)
    world.connect_all()
    world.finish(next(iter(world.workers)), "a")
    new = world.declare(replace(spec(cpu=8.0), kind="class", version=2))
    world.step(e.FunctionReplaced(old, new))
    assert unmet(world.plane.state) == [Capacity(8.0, 0)]
