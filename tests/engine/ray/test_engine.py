"""The Ray engine on a cluster in memory: the contract, and what follows when parts of a cluster go away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stoker.engine.base import (
    Bundle,
    Event,
    GrowthChanged,
    NodeChanged,
    NodeDraining,
    NodeGone,
    NodeJoined,
    StartRefused,
    WorkerDown,
    WorkerSpec,
    WorkerUp,
    called,
)
from stoker.engine.ray import cluster as c
from stoker.engine.ray import engine as ray_engine
from stoker.engine.ray.engine import RayEngine
from stoker.transport.addresses import Address
from stoker.types import CodeRef, FunctionSpec, Growth, ImageSpec
from tests.engine.contract import EngineContract
from tests.engine.ray.fake_cluster import GIB, FakeCluster, machine
from tests.engine.waiting import until


def function_spec() -> FunctionSpec:
    return FunctionSpec("app", "f", CodeRef(module="m", qualname="f"), ImageSpec("3.11"))


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def function() -> FunctionSpec:
    return function_spec()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(machine("n1"))


async def engine_on(cluster: FakeCluster, events: list[Event], state_dir: Path, *, lease: float = 60.0) -> RayEngine:
    engine = RayEngine(cluster, state_dir=state_dir, lease=lease)
    cluster.engine = engine
    engine.set_listener(events.append)
    engine.open_to_agents(Address("0.0.0.0", 7), "", lambda node: f"token of {node}")
    await engine.start_up()
    return engine


@pytest.fixture
async def engine(cluster: FakeCluster, events: list[Event], tmp_path: Path) -> AsyncIterator[RayEngine]:
    engine = await engine_on(cluster, events, tmp_path)
    yield engine
    await engine.shut_down(grace=1.0)


class TestRayEngine(EngineContract):
    pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(ray_engine, "RESTART_FIRST_SECONDS", 0.01)


class Two:
    """An engine with two nodes that have joined."""

    def __init__(self, engine: RayEngine, cluster: FakeCluster, events: list[Event]) -> None:
        self.engine, self.cluster, self.events = engine, cluster, events

    def start(self, worker: str, *, node: str = "", cpus: float = 1.0, gpus: float = 0.0) -> None:
        grants = self.engine.reserve([Bundle(cpus, node=node, gpus=gpus)])
        assert grants is not None
        self.engine.start(grants[0], WorkerSpec(worker, function_spec(), "t"))

    async def up(self, worker: str, *, node: str = "", cpus: float = 1.0) -> None:
        self.start(worker, node=node, cpus=cpus)
        await until(lambda: self.told(worker), what=worker)

    def told(self, worker: str) -> list[type]:
        return EngineContract.of(self.events, worker)

    def of(self, kind: type) -> list[str]:
        return [_name(event) for event in self.events if isinstance(event, kind)]

    def free(self, node: str) -> float:
        return next(info.cpus_free for info in self.engine.nodes() if info.node == node)


def _name(event: Event) -> str:
    assert isinstance(event, NodeJoined | NodeGone | NodeDraining)
    return event.node.node if isinstance(event, NodeJoined) else event.node


@pytest.fixture
async def two(events: list[Event], tmp_path: Path) -> AsyncIterator[Two]:
    cluster = FakeCluster(machine("n1"), machine("n2", cpus=8.0, gpus=2.0, gpus_free=2.0))
    engine = await engine_on(cluster, events, tmp_path)
    await until(lambda: len(engine.nodes()) == 2, what="two nodes")
    yield Two(engine, cluster, events)
    await engine.shut_down(grace=1.0)


async def test_agents_are_told_where_the_server_is(two: Two) -> None:
    assert [(one.node, one.server, one.token, one.cpus, one.memory) for one in two.cluster.orders] == [
        ("n1", "stoker://127.0.0.1:7", "token of n1", 4.0, 4 * GIB),
        ("n2", "stoker://127.0.0.1:7", "token of n2", 8.0, 4 * GIB),
    ]
    assert "token" not in repr(two.cluster.orders[0])


async def test_a_bundle_goes_to_the_node_that_it_names(two: Two) -> None:
    await two.up("w1", node="n2")
    assert list(two.cluster.agents["n2"].running) == ["w1"]
    assert two.engine.reserve([Bundle(1.0, node="n3")]) is None
    (rooms,) = two.cluster.groups.values()
    assert [(room.node, room.cpus) for room in rooms] == [("n2", 1.0)]


async def test_a_gang_is_one_group_over_both_nodes(two: Two) -> None:
    grants = two.engine.reserve([Bundle(3.0, node="n1"), Bundle(3.0, node="n2"), Bundle(3.0, node="n2")])
    assert grants is not None
    await until(lambda: two.cluster.groups, what="its room")
    (rooms,) = two.cluster.groups.values()
    assert [room.node for room in rooms] == ["n1", "n2", "n2"]
    for grant in grants[:2]:
        two.engine.release(grant)
    assert len(two.cluster.groups) == 1
    two.engine.release(grants[2])
    assert two.cluster.groups == {}


async def test_other_work_on_the_cluster_counts(two: Two) -> None:
    two.cluster.taken["n1"] = 3.0
    two.cluster.look()
    assert two.free("n1") == 1.0
    assert two.engine.reserve([Bundle(2.0, node="n1")]) is None
    assert [event.node.cpus_free for event in two.events if isinstance(event, NodeChanged)] == [1.0]


async def test_room_that_was_just_given_back_is_free_at_once(two: Two) -> None:
    grants = two.engine.reserve([Bundle(4.0, node="n1")])
    assert grants is not None
    await until(lambda: two.cluster.groups, what="its room")
    two.cluster.look()
    two.engine.release(grants[0])
    assert two.free("n1") == 4.0


async def test_other_work_may_be_faster(two: Two) -> None:
    two.cluster.slow = True
    two.start("w1", node="n1", cpus=4.0)
    two.cluster.answer(next(iter(two.cluster.asked)), refuse="other work took it")
    await until(lambda: two.told("w1"), what="the refusal")
    (refusal,) = [event for event in two.events if isinstance(event, StartRefused)]
    assert refusal.retry and "other work took it" in refusal.error.message


async def test_a_start_waits_for_its_room_and_can_be_called_off(two: Two) -> None:
    two.cluster.slow = True
    two.start("w1", node="n1")
    two.start("w2", node="n1")
    two.engine.stop("w1", grace=0.0, reason="enough")
    await until(lambda: two.told("w1"), what="the refusal")
    assert two.told("w1") == [StartRefused]
    assert two.told("w2") == []
    for group in list(two.cluster.asked):
        two.cluster.answer(group)
    await until(lambda: two.told("w2"), what="w2")
    assert two.told("w2") == [WorkerUp] and two.told("w1") == [StartRefused]


async def test_a_worker_sees_the_devices_of_its_grant(two: Two) -> None:
    two.start("w1", gpus=2.0)
    await until(lambda: two.told("w1"), what="w1")
    assert two.cluster.agents["n2"].running["w1"].devices == ["0", "1"]
    assert two.engine.reserve([Bundle(1.0, gpus=1.0)]) is None


async def test_custom_resources_that_no_node_has(two: Two) -> None:
    assert two.engine.reserve([Bundle(1.0, resources={"tpu": 1.0})]) is None


async def test_a_node_that_dies_takes_its_workers_with_it(two: Two) -> None:
    await two.up("w1", node="n1")
    await two.up("w2", node="n2")
    two.cluster.slow = True
    two.start("w3", node="n1")
    del two.cluster.machines["n1"]
    two.cluster.look()
    assert two.told("w1") == [WorkerUp, WorkerDown]
    assert two.told("w3") == [StartRefused]
    assert two.told("w2") == [WorkerUp]
    assert two.of(NodeGone) == ["n1"]
    assert [info.node for info in two.engine.nodes()] == ["n2"]


def test_a_node_is_called_by_its_machines_name_where_that_tells_it_from_others() -> None:
    hosts = {"7c9d0b185962b6f2": "gpu-1", "9fc9379adb1a14ec": "gpu-2", "210659e388f60718": "gpu-2"}
    assert [called(node, hosts) for node in (*hosts, "24f35ef36662792b")] == [
        "gpu-1",
        "9fc9379adb1a",
        "210659e388f6",
        "24f35ef36662",
    ]


async def test_an_agent_that_ends_is_started_again(two: Two) -> None:
    await two.up("w1", node="n1")
    two.cluster.agents["n1"].closed = True
    two.cluster.tell(c.AgentEnded("n1", "killed by signal 9"))
    assert two.told("w1") == [WorkerUp, WorkerDown]
    await until(lambda: two.of(NodeJoined).count("n1") == 2, what="another agent")
    await two.up("w2", node="n1")


async def test_a_silent_node_is_given_up_after_its_lease_and_may_come_back(events: list[Event], tmp_path: Path) -> None:
    cluster = FakeCluster(machine("n1"))
    engine = await engine_on(cluster, events, tmp_path, lease=0.3)
    one = Two(engine, cluster, events)
    await until(lambda: engine.nodes(), what="the node")
    await one.up("w1")
    agent = cluster.agents["n1"]
    await until(lambda: one.of(NodeGone) == ["n1"], what="the end of the lease")
    (outage,) = engine.outages()
    assert outage.node == "n1" and "nothing was heard of it for" in outage.reason
    assert agent.closed and engine.nodes() == [] and engine.reserve([Bundle(1.0)]) is None
    (grant,) = engine._nodes["n1"].agent.grants.values()
    engine.release(grant)  # the server does, for workers that it gave up
    assert cluster.groups == {}
    agent.connect()
    assert [worker.worker for event in events[-3:] if isinstance(event, NodeJoined) for worker in event.workers] == [
        "w1"
    ]
    await until(lambda: cluster.groups, what="its room again")
    assert one.free("n1") == 3.0
    await engine.shut_down(grace=1.0)


async def test_beats_keep_a_lease(events: list[Event], tmp_path: Path) -> None:
    cluster = FakeCluster(machine("n1"))
    engine = await engine_on(cluster, events, tmp_path, lease=0.3)
    await until(lambda: engine.nodes(), what="the node")
    agent = cluster.agents["n1"]

    def beaten() -> bool:
        agent.beat()
        return len(agent.beats) > 60

    await until(beaten, what="beats")
    assert agent.beats[0].lease == 0.3
    assert not [event for event in events if isinstance(event, NodeGone)]
    await engine.shut_down(grace=1.0)


async def test_a_node_that_is_taken_away_drains_once(two: Two) -> None:
    two.cluster.machines["n1"] = machine("n1", draining=5e9)
    two.cluster.look()
    two.cluster.look()
    assert two.of(NodeDraining) == ["n1"]
    assert two.engine.reserve([Bundle(1.0, node="n1")]) is None


async def test_the_next_server_waits_for_the_nodes_and_keeps_their_room(
    two: Two, events: list[Event], tmp_path: Path
) -> None:
    await two.up("w1", node="n1")
    await two.up("w2", node="n2")
    two.cluster.groups["of a worker that is gone"] = [c.Room(1.0, node="n2")]
    held = sorted(two.cluster.groups)
    await two.engine.abandon()
    agents = dict(two.cluster.agents)
    two.cluster.automatic = False
    heard: list[Event] = []
    heir = await engine_on(two.cluster, heard, tmp_path)
    assert heir.expected_nodes() == ["n1", "n2"] and heir.nodes() == []
    for agent in agents.values():
        agent.engine = heir
        agent.connect(term=2)
        assert sorted(two.cluster.groups) == held or heir.expected_nodes() == []
    assert heir.expected_nodes() == []
    assert sorted(two.cluster.groups) == [name for name in held if "gone" not in name]
    adopted = {w.worker: w.grant for event in heard if isinstance(event, NodeJoined) for w in event.workers}
    assert sorted(adopted) == ["w1", "w2"]
    heir.release(adopted["w1"])
    assert len(two.cluster.groups) == 1
    await heir.shut_down(grace=1.0)


async def test_of_a_group_that_was_kept_for_one_worker_the_rest_is_free(
    two: Two, events: list[Event], tmp_path: Path
) -> None:
    """Its other workers have ended meanwhile: what they held is the server's to grant, not lost until the last ends."""
    grants = two.engine.reserve([Bundle(2.0, node="n1"), Bundle(1.0, node="n1")])
    assert grants is not None
    two.engine.start(grants[1], WorkerSpec("stays", function_spec(), "t"))
    await until(lambda: two.told("stays"), what="the worker")
    await two.engine.abandon()
    agents = dict(two.cluster.agents)
    two.cluster.automatic = False
    heir = await engine_on(two.cluster, [], tmp_path)
    for agent in agents.values():
        agent.engine = heir
        agent.connect(term=2)
    (n1,) = [info for info in heir.nodes() if info.node == "n1"]
    assert n1.cpus_free == n1.cpus - 1.0
    assert heir.reserve([Bundle(n1.cpus - 1.0, node="n1")]) is not None
    await heir.shut_down(grace=1.0)


async def test_a_node_that_died_while_no_server_was_there_is_not_waited_for(two: Two, tmp_path: Path) -> None:
    await two.up("w1", node="n1")
    await two.engine.abandon()
    del two.cluster.machines["n1"]
    heard: list[Event] = []
    heir = await engine_on(two.cluster, heard, tmp_path)
    assert heir.expected_nodes() == ["n2"]
    assert [event.node for event in heard if isinstance(event, NodeGone)] == ["n1"]
    await heir.shut_down(grace=1.0)


async def test_without_the_cluster_nothing_is_granted_and_what_runs_runs_on(two: Two) -> None:
    await two.up("w1", node="n1")
    two.cluster.tell(c.ClusterLost("its head does not answer"))
    assert two.engine.reserve([Bundle(1.0)]) is None and "its head does not answer" in two.engine.trouble
    assert two.told("w1") == [WorkerUp]
    assert [(one.node, one.reason) for one in two.engine.outages()] == [
        ("", "The Ray cluster does not answer: its head does not answer")
    ]
    two.cluster.tell(c.ClusterBack(dict(two.cluster.groups)))
    two.cluster.look()
    assert not two.engine.trouble
    await two.up("w2", node="n1")


async def test_a_start_whose_room_is_not_confirmed_is_refused_while_the_cluster_is_away(two: Two) -> None:
    two.cluster.slow = True
    two.start("w1", node="n1")
    await until(lambda: two.cluster.asked, what="its room is asked for")
    two.cluster.tell(c.ClusterLost("its head does not answer"))
    await until(lambda: two.told("w1"), what="the refusal")
    (event,) = [event for event in two.events if isinstance(event, StartRefused)]
    assert event.retry and "its head does not answer" in event.error.message


async def test_borrowed_cores_get_room_of_their_own_when_their_lender_ends(two: Two) -> None:
    grants = two.engine.reserve([Bundle(4.0, node="n1")])
    assert grants is not None
    two.engine.start(grants[0], WorkerSpec("lender", function_spec(), "t"))
    await until(lambda: two.told("lender"), what="the lender")
    two.engine.lend(grants[0], lent=True)
    await two.up("borrower", node="n1", cpus=2.0)
    assert len(two.cluster.groups) == 1
    two.cluster.agents["n1"].end("lender")
    two.engine.release(grants[0])
    await until(lambda: [r.cpus for rooms in two.cluster.groups.values() for r in rooms] == [2.0], what="its own room")


async def test_a_node_without_stoker_is_named(two: Two) -> None:
    two.cluster.machines["n3"] = machine("n3", problem="Stoker is not installed in /usr/bin/python3 on node n3.")
    two.cluster.look()
    assert [one.node for one in two.cluster.orders] == ["n1", "n2"]
    (outage,) = two.engine.outages()
    assert (outage.node, outage.reason) == ("n3", "Stoker is not installed in /usr/bin/python3 on node n3.")
    two.cluster.machines["n3"] = machine("n3")
    two.cluster.look()
    await until(lambda: "n3" in two.of(NodeJoined), what="the node once Stoker is there")


async def test_what_waits_is_asked_of_the_cluster(two: Two) -> None:
    two.engine.demand([Bundle(16.0, 1 * GIB, gpus=1.0)])
    assert two.cluster.demanded == [c.Room(16.0, 1 * GIB, 1.0)]


async def test_answers_of_all_nodes_come_together(two: Two) -> None:
    assert sorted((await two.engine.ask("inventory"))["nodes"]) == ["n1", "n2"]
    assert await two.engine.ask("images") == []
    await two.engine.flush_logs()


async def test_how_nodes_may_come_is_told(two: Two) -> None:
    assert two.engine.growth is Growth.BY_ITSELF  # nothing is known yet of what adds nodes
    two.cluster.adds_nodes = False
    two.cluster.look()
    await until(lambda: GrowthChanged(Growth.BY_HAND) in two.events, what="nobody adds nodes")
    two.cluster.automatic = False
    two.cluster.machines["n3"] = machine("n3")
    two.cluster.look()
    assert two.engine.growth is Growth.BY_ITSELF, "n3 is on its way"
    two.cluster.agents["n3"].connect()
    await until(lambda: two.engine.growth is Growth.BY_HAND, what="n3 is there")
    two.cluster.machines.pop("n3")
    two.cluster.look()
    assert two.engine.growth is Growth.BY_ITSELF, "it may be started again"


async def test_a_node_that_can_run_no_agent_is_not_on_its_way(two: Two) -> None:
    two.cluster.adds_nodes = False
    two.cluster.machines["n3"] = machine("n3", problem="it has no Stoker")
    two.cluster.look()
    await until(lambda: two.engine.growth is Growth.BY_HAND, what="nobody adds nodes")
