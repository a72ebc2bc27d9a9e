"""The Ray engine's books and its successor's knowledge, when nodes, agents and the cluster go at a bad moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stoker.engine.base import Bundle, Event, NodeGone, NodeJoined, WorkerDown, WorkerSpec
from stoker.engine.ray import cluster as c
from stoker.engine.ray import engine as ray_engine
from stoker.engine.ray.engine import RayEngine
from stoker.engine.ray.groups import STALE_SECONDS, Group, Groups
from stoker.errors import ConnectionFailed
from tests.engine.ray.fake_cluster import GIB, FakeCluster, machine
from tests.engine.ray.test_engine import Two, engine_on, function_spec
from tests.engine.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(ray_engine, "RESTART_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(ray_engine, "LATE_SECONDS", 0.3)
    monkeypatch.setattr(ray_engine, "STOP_SLACK_SECONDS", 0.0)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def two(events: list[Event], tmp_path: Path) -> AsyncIterator[Two]:
    cluster = FakeCluster(machine("n1"), machine("n2", cpus=8.0))
    engine = await engine_on(cluster, events, tmp_path)
    await until(lambda: len(engine.nodes()) == 2, what="two nodes")
    yield Two(engine, cluster, events)
    await engine.shut_down(grace=1.0)


async def test_the_room_of_a_gang_is_given_back_though_one_of_its_nodes_died(two: Two) -> None:
    grants = two.engine.reserve([Bundle(2.0, node="n1"), Bundle(2.0, node="n2")])
    assert grants is not None
    await until(lambda: two.cluster.groups, what="its room")
    del two.cluster.machines["n1"]
    two.cluster.look()
    for grant in grants:
        two.engine.release(grant)
    assert two.cluster.groups == {}
    assert two.free("n2") == 8.0


async def test_a_rank_that_comes_back_is_not_counted_twice(events: list[Event], tmp_path: Path) -> None:
    cluster = FakeCluster(machine("n1"), machine("n2"))
    engine = await engine_on(cluster, events, tmp_path, lease=0.3)
    await until(lambda: len(engine.nodes()) == 2, what="two nodes")
    both = Two(engine, cluster, events)
    grants = engine.reserve([Bundle(2.0, node="n1"), Bundle(2.0, node="n2")])
    assert grants is not None
    for worker, grant in zip(("w1", "w2"), grants, strict=True):
        engine.start(grant, WorkerSpec(worker, function_spec(), "t"))
    await until(lambda: both.told("w1") and both.told("w2"), what="both ranks")
    other = cluster.agents["n2"]

    def gone() -> bool:
        other.beat()
        return both.of(NodeGone) == ["n1"]

    await until(gone, what="the end of the lease")
    engine.release(grants[0])
    cluster.agents["n1"].connect()
    more = engine.reserve([Bundle(2.0, node="n1")])
    assert more is not None
    await until(lambda: len(cluster.groups) == 2, what="room beside it")
    cluster.look()
    assert (both.free("n1"), both.free("n2")) == (0.0, 2.0)
    for grant in (*grants, *more):
        engine.release(grant)
    assert cluster.groups == {}
    await engine.shut_down(grace=1.0)


async def test_all_that_runs_on_a_node_that_was_cut_off_has_its_room_again(events: list[Event], tmp_path: Path) -> None:
    cluster = FakeCluster(machine("n1"))
    engine = await engine_on(cluster, events, tmp_path, lease=0.3)
    await until(lambda: engine.nodes(), what="the node")
    one = Two(engine, cluster, events)
    grants = engine.reserve([Bundle(1.0), Bundle(2.0)])
    assert grants is not None
    for worker, grant in zip(("w1", "w2"), grants, strict=True):
        engine.start(grant, WorkerSpec(worker, function_spec(), "t"))
    await until(lambda: one.told("w1") and one.told("w2"), what="both ranks")
    await until(lambda: one.of(NodeGone) == ["n1"], what="the end of the lease")
    for grant in grants:
        engine.release(grant)
    assert cluster.groups == {}
    cluster.agents["n1"].connect()

    def held() -> bool:
        return sorted(room.cpus for rooms in cluster.groups.values() for room in rooms) == [1.0, 2.0]

    await until(held, what="the room of both")
    for grant in grants:
        engine.release(grant)
    assert cluster.groups == {}
    await engine.shut_down(grace=1.0)


async def test_a_node_joins_with_the_room_that_it_has(events: list[Event], tmp_path: Path) -> None:
    cluster = FakeCluster(machine("n1"))
    engine = await engine_on(cluster, events, tmp_path, lease=0.3)
    await until(lambda: engine.nodes(), what="the node")
    one = Two(engine, cluster, events)
    await one.up("w1")
    await until(lambda: one.of(NodeGone) == ["n1"], what="the end of the lease")
    (grant,) = engine._nodes["n1"].agent.grants.values()
    engine.release(grant)
    cluster.agents["n1"].connect()
    joined = [event for event in events if isinstance(event, NodeJoined)][-1]
    assert joined.node.cpus_free == 3.0
    await engine.shut_down(grace=1.0)


async def test_memory_of_what_runs_on_borrowed_cores_is_held(two: Two) -> None:
    grants = two.engine.reserve([Bundle(4.0, GIB, node="n1")])
    assert grants is not None
    two.engine.start(grants[0], WorkerSpec("lender", function_spec(), "t"))
    await until(lambda: two.told("lender"), what="the lender")
    two.engine.lend(grants[0], lent=True)
    assert two.engine.reserve([Bundle(1.0, 3 * GIB, node="n1")]) is not None
    assert two.engine.reserve([Bundle(1.0, 3 * GIB, node="n1")]) is None


async def test_a_successor_waits_for_a_node_that_is_away_for_a_moment(two: Two, tmp_path: Path) -> None:
    await two.up("w1", node="n1")
    two.cluster.agents["n1"].disconnect()
    again = two.cluster.agents["n2"]
    again.disconnect()
    again.connect()
    heir = RayEngine(two.cluster, state_dir=tmp_path, lease=60.0)
    assert heir.expected_nodes() == ["n1", "n2"]


async def test_a_start_that_finds_no_cluster_leaves_nodes_and_work_to_the_next(two: Two, tmp_path: Path) -> None:
    await two.up("w1", node="n1")
    await two.engine.abandon()

    class Away(FakeCluster):
        async def start_up(self) -> None:
            agent.engine = heir
            agent.connect(term=2)  # it finds the door before the cluster is found
            raise ConnectionFailed("No Ray answers.")

    agent = two.cluster.agents["n1"]
    heir = RayEngine(Away(), state_dir=tmp_path, lease=60.0)
    with pytest.raises(ConnectionFailed):
        await heir.start_up()
    await heir.shut_down(grace=1.0)
    assert list(agent.running) == ["w1"]
    assert RayEngine(two.cluster, state_dir=tmp_path, lease=60.0).expected_nodes() == ["n1", "n2"]


async def test_a_worker_that_ends_before_its_node_is_seen_is_not_taken_for_running(two: Two, tmp_path: Path) -> None:
    await two.up("w1", node="n1")
    await two.engine.abandon()
    two.cluster.automatic = False
    agent = two.cluster.agents["n1"]

    class Slow(FakeCluster):
        async def start_up(self) -> None:
            agent.engine = heir
            agent.connect(term=2)  # it finds the door before the cluster is found
            agent.end("w1")
            await super().start_up()

    heard: list[Event] = []
    slow = Slow(*two.cluster.machines.values())
    slow.automatic = False
    heir = slow.engine = RayEngine(slow, state_dir=tmp_path, lease=60.0)
    heir.set_listener(heard.append)
    await heir.start_up()
    running = [w.worker for event in heard if isinstance(event, NodeJoined) for w in event.workers]
    ended = [event.worker for event in heard if isinstance(event, WorkerDown)]
    assert running == ended
    await heir.shut_down(grace=1.0)


async def test_room_of_an_earlier_server_is_not_kept_for_a_node_that_never_answers(tmp_path: Path) -> None:
    events: list[Event] = []
    cluster = FakeCluster(machine("n1"), machine("n2"))
    engine = await engine_on(cluster, events, tmp_path)
    await until(lambda: len(engine.nodes()) == 2, what="two nodes")
    await engine.abandon()
    cluster.groups["of a worker that is gone"] = [c.Room(4.0, node="n2")]
    cluster.machines["n1"] = machine("n1", problem="Stoker is not installed there.")
    heard: list[Event] = []
    heir = await engine_on(cluster, heard, tmp_path, lease=0.3)
    agent = cluster.agents["n2"]

    def free() -> bool:
        agent.beat()
        return cluster.groups == {}

    await until(free, what="what nobody claimed is given back", patience=5.0)
    await heir.shut_down(grace=1.0)


async def test_a_server_that_was_stopped_hears_its_nodes_before_it_gives_them_up(
    events: list[Event], tmp_path: Path
) -> None:
    cluster = FakeCluster(machine("n1"))
    engine = await engine_on(cluster, events, tmp_path, lease=0.3)
    await until(lambda: engine.nodes(), what="the node")
    agent = cluster.agents["n1"]
    agent.beat()
    time.sleep(0.5)  # as a process that is stopped and goes on; what came meanwhile lies in its sockets
    for _ in range(5):
        await asyncio.sleep(0)
    agent.beat()
    assert not [event for event in events if isinstance(event, NodeGone)]
    await engine.shut_down(grace=1.0)


async def test_a_rank_gets_its_own_devices_though_another_was_given_back_meanwhile(
    events: list[Event], tmp_path: Path
) -> None:
    cluster = FakeCluster(machine("n1", gpus=2.0, gpus_free=2.0))
    engine = await engine_on(cluster, events, tmp_path)
    await until(lambda: engine.nodes(), what="the node")
    cluster.slow = True
    grants = engine.reserve([Bundle(1.0, gpus=1.0), Bundle(1.0, gpus=1.0)])
    assert grants is not None
    engine.start(grants[1], WorkerSpec("w2", function_spec(), "t"))
    engine.release(grants[0])
    (group,) = cluster.asked
    cluster.tell(c.Reserved(group, ["n1", "n1"], [["0"], ["1"]]))
    await until(lambda: cluster.agents["n1"].running, what="w2")
    assert cluster.agents["n1"].running["w2"].devices == ["1"]
    await engine.shut_down(grace=1.0)


def test_the_books_are_even_when_all_is_given_back() -> None:
    groups = Groups()
    seen = machine("n1", gpus=4.0, gpus_free=4.0, resources={"tpu": 2.0}, resources_free={"tpu": 2.0})
    before = groups.free(seen, now=0.0)
    for index in range(1000):
        room = c.Room(0.1, index, 0.3, {"tpu": 0.7}, "n1")
        groups.add(Group(f"g{index}", [room, room], [f"g{index}.0", f"g{index}.1"], is_ready=True))
    held = groups.reserved("n1")
    assert (round(held.cpus, 6), held.memory) == (200.0, 999 * 1000)
    for index in range(1000):
        assert groups.give_back(f"g{index}.0", now=1.0) is None
        assert groups.give_back(f"g{index}.1", now=1.0) is not None
    assert groups.free(seen, now=1.0 + STALE_SECONDS) == before
    assert groups.reserved("n1") == c.Room(node="n1")
