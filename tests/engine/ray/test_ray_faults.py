"""What happens when parts of a Ray cluster die under `RayCluster`, or a node is not as it should be."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker._version import __version__
from stoker.engine.ray.cluster import AgentEnded, ClusterBack, ClusterLost, Reserved, ReserveFailed, Room
from tests.engine.ray.conftest import MakeServer
from tests.engine.ray.recorder import is_gone, note_of, order
from tests.ray_clusters import RayClusterProcess, RayNode
from tests.waiting import wait_until


@pytest.fixture
def third(ray_nodes: RayClusterProcess) -> Iterator[RayNode]:
    """Have one more node, for this test to kill."""
    node = ray_nodes.add_node(cpus=3)
    yield node
    if node in ray_nodes.nodes:
        ray_nodes.kill_node(node)


@pytest.mark.chaos
async def test_a_node_that_is_killed_takes_its_agent_and_its_groups_with_it(
    ray_nodes: RayClusterProcess, third: RayNode, server: MakeServer, nodes_place: Path
) -> None:
    recorder = await server(ray_nodes, owner="chaos")
    head = ray_nodes.head.id
    recorder.cluster.reserve("there", [Room(cpus=1, node=third.id)], patience=20)
    recorder.cluster.reserve("both", [Room(cpus=1, node=third.id), Room(cpus=1, node=head)], patience=20)
    recorder.cluster.start_agent(order(third.id))
    await recorder.event(Reserved, group="there")
    await recorder.event(Reserved, group="both")
    note = await recorder.until(lambda: note_of(nodes_place, third.id, "chaos"))
    recorder.cluster.reserve("waits", [Room(cpus=3, node=third.id)], patience=100)
    ray_nodes.kill_node(third)
    await recorder.until(lambda: is_gone(note["pid"]) and is_gone(note["child"]))
    assert "gone" in (await recorder.event(AgentEnded, node=third.id)).reason
    assert third.id in (await recorder.event(ReserveFailed, group="waits")).reason
    await recorder.until(lambda: third.id not in [node.id for node in recorder.nodes])
    await recorder.until(lambda: [name for name in ray_nodes.groups() if "chaos" in name] == ["stoker-chaos-both"])
    # What was on that node alone is gone; the rest of a group stays for as long as it is wanted.
    await recorder.cluster.abandon()
    again = await server(ray_nodes, owner="chaos")
    assert isinstance(again.events[0], ClusterBack) and [*again.events[0].groups] == ["both"]
    assert again.node(head).cpus_free == 3
    again.cluster.release("both")
    await again.until(lambda: again.node(head).cpus_free == 4)


@pytest.mark.chaos
async def test_an_agent_whose_actor_is_killed_ends_with_what_it_started(
    ray_nodes: RayClusterProcess, server: MakeServer, nodes_place: Path
) -> None:
    recorder = await server(ray_nodes, owner="actor")
    node = ray_nodes.nodes[1].id
    recorder.cluster.start_agent(order(node))
    note = await recorder.until(lambda: note_of(nodes_place, node, "actor"))
    os.kill(_actor_of(ray_nodes.nodes[1]), signal.SIGKILL)
    await recorder.event(AgentEnded, node=node)
    await recorder.until(lambda: is_gone(note["pid"]) and is_gone(note["child"]))
    since = len(recorder.events)
    recorder.cluster.start_agent(order(node))  # and another one can be had
    again = await recorder.until(
        lambda: (new := note_of(nodes_place, node, "actor")) and new["pid"] != note["pid"] and new
    )
    assert again and not is_gone(again["pid"])
    assert not [event for event in recorder.events[since:] if isinstance(event, AgentEnded)]


@pytest.mark.chaos
async def test_a_server_that_never_comes_back_leaves_nothing_on_the_cluster(
    ray_nodes: RayClusterProcess, server: MakeServer, nodes_place: Path
) -> None:
    recorder, witness = await server(ray_nodes, owner="leaver"), await server(ray_nodes, owner="witness")
    node = ray_nodes.head.id
    recorder.cluster.reserve("held", [Room(cpus=2, node=node)], patience=20)
    await recorder.event(Reserved, group="held")
    recorder.cluster.start_agent(order(node))
    note = await recorder.until(lambda: note_of(nodes_place, node, "leaver"))
    await witness.until(lambda: witness.node(node).cpus_free == 2)
    await recorder.cluster.abandon()
    os.kill(note["pid"], signal.SIGTERM)  # as an agent ends whose grace is over
    await witness.until(lambda: witness.node(node).cpus_free == 4)
    await witness.until(lambda: not _actors_below(ray_nodes.head.raylet))


@pytest.mark.chaos
async def test_a_cluster_whose_head_is_killed_is_lost(server: MakeServer) -> None:
    cluster = RayClusterProcess()
    try:
        cluster.add_node(cpus=2)
        recorder = await server(cluster, owner="headless")
        cluster.kill_head()
        assert (await recorder.event(ClusterLost)).reason
        recorder.cluster.reserve("g", [Room(cpus=1)], patience=1)  # may be asked for; nothing comes while it is away
        recorder.cluster.release("g")
        await recorder.cluster.shut_down()
    finally:
        cluster.stop()


@pytest.mark.parametrize("source", ["raise ImportError('no such thing')", "__version__ = '0.0.1'"])
async def test_a_node_without_this_stoker_is_named(
    ray_nodes: RayClusterProcess, server: MakeServer, tmp_path: Path, source: str
) -> None:
    package = tmp_path / "path" / "stoker"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "_version.py").write_text(source)
    node = ray_nodes.add_node(cpus=1, env={"PYTHONPATH": str(package.parent)})
    try:
        recorder = await server(ray_nodes, owner="lacking")
        recorder.cluster.start_agent(order(node.id))
        reason = (await recorder.event(AgentEnded, node=node.id)).reason
        assert node.id in reason and f"pip install 'stoker[ray]=={__version__}'" in reason
        assert ("0.0.1" in reason) == ("0.0.1" in source)
        recorder.cluster.reserve("change", [Room(cpus=1, node=node.id)], patience=20)
        await recorder.until(lambda: recorder.node(node.id).problem == reason)
    finally:
        ray_nodes.kill_node(node)


async def test_a_node_that_ray_drains_is_told_with_its_deadline(
    ray_nodes: RayClusterProcess, third: RayNode, server: MakeServer
) -> None:
    recorder = await server(ray_nodes, owner="drain")
    recorder.cluster.reserve("busy", [Room(cpus=1, node=third.id)], patience=20)  # idle, it would go at once
    await recorder.event(Reserved, group="busy")
    ray_nodes.drain_node(third, until=4_000_000_000.0)
    await recorder.until(lambda: recorder.node(third.id).draining == 4_000_000_000.0)


def _actors_below(raylet: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(
                (b"ray::NodeActor", b"ray::DeviceActor")
            ):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found += [int(entry.name)] if parent == raylet else []
        except OSError:
            continue
    return found


def _actor_of(node: RayNode) -> int:
    return wait_until(lambda: _actors_below(node.raylet))[0]
