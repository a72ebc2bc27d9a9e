"""What `RayCluster` does on a real Ray of two nodes that stays whole; `test_ray_faults` breaks one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.engine.ray.cluster import (
    AgentEnded,
    ClusterBack,
    ClusterLost,
    NodesSeen,
    Reserved,
    ReserveFailed,
    Room,
)
from tests.engine.ray.conftest import MakeServer
from tests.engine.ray.recorder import Recorder, bridge_of, is_gone, note_of, order
from tests.ray_clusters import RayClusterProcess


async def test_the_nodes_of_the_cluster_are_told_with_what_they_have(
    ray_nodes: RayClusterProcess, server: MakeServer
) -> None:
    recorder = await server(ray_nodes)
    assert isinstance(recorder.events[0], ClusterBack) and recorder.events[0].groups == {}
    assert isinstance(recorder.events[1], NodesSeen)
    head, other = recorder.node(ray_nodes.nodes[0].id), recorder.node(ray_nodes.nodes[1].id)
    assert (head.cpus, head.gpus, other.cpus, other.gpus) == (4, 0, 6, 2)
    assert head.memory > 1 << 30 and head.memory_free <= head.memory
    assert head.labels["ray.io/node-id"] == head.id
    assert head.address == other.address == recorder.cluster.address  # and yet they are two
    assert head.resources == {} and head.draining == 0 and head.problem == ""


async def test_room_is_given_on_the_node_that_was_named_all_or_none(
    ray_nodes: RayClusterProcess, server: MakeServer
) -> None:
    recorder = await server(ray_nodes)
    head, other = ray_nodes.nodes[0].id, ray_nodes.nodes[1].id
    recorder.cluster.reserve("a", [Room(cpus=1, memory=1 << 20, node=head), Room(cpus=2, node=other)], patience=20)
    assert (await recorder.event(Reserved, group="a")) == Reserved("a", [head, other], [[], []])
    await recorder.until(lambda: recorder.node(head).cpus_free == 3 and recorder.node(other).cpus_free == 4)
    # One of the two would fit: none is given, and nothing stays reserved.
    recorder.cluster.reserve("b", [Room(cpus=1, node=head), Room(cpus=5, node=other)], patience=0.5)
    assert "room" in (await recorder.event(ReserveFailed, group="b")).reason
    recorder.cluster.release("a")
    await recorder.until(lambda: recorder.node(head).cpus_free == 4 and recorder.node(other).cpus_free == 6)


async def test_many_groups_do_not_wait_for_each_other(ray_nodes: RayClusterProcess, server: MakeServer) -> None:
    recorder = await server(ray_nodes)
    recorder.cluster.reserve("never", [Room(cpus=50)], patience=30)
    for number in range(16):
        recorder.cluster.reserve(f"g{number}", [Room(cpus=0.5, node=ray_nodes.nodes[number % 2].id)], patience=20)
    for number in range(16):
        await recorder.event(Reserved, group=f"g{number}")
    assert not [event for event in recorder.events if isinstance(event, ReserveFailed)]
    for number in range(16):
        recorder.cluster.release(f"g{number}")
    recorder.cluster.release("never")
    await recorder.until(lambda: all(node.cpus_free == node.cpus for node in recorder.nodes))
    assert not [event for event in recorder.events if isinstance(event, ReserveFailed)]  # withdrawn, not failed


async def test_room_of_nothing_is_room(ray_nodes: RayClusterProcess, server: MakeServer) -> None:
    recorder = await server(ray_nodes)
    recorder.cluster.reserve("idle", [Room(node=ray_nodes.nodes[1].id)], patience=20)
    assert (await recorder.event(Reserved, group="idle")).nodes == [ray_nodes.nodes[1].id]


async def test_room_released_and_asked_for_again_at_once_is_there(
    ray_nodes: RayClusterProcess, server: MakeServer
) -> None:
    recorder = await server(ray_nodes)
    for _ in range(5):
        recorder.cluster.reserve("g", [Room(cpus=1)], patience=20)
        recorder.cluster.release("g")
    recorder.cluster.reserve("g", [Room(cpus=2)], patience=20)
    await recorder.event(Reserved, group="g")
    await recorder.until(lambda: sum(node.cpus - node.cpus_free for node in recorder.nodes) == 2)


async def test_the_devices_of_gpus_are_told_also_of_fractions(ray_nodes: RayClusterProcess, server: MakeServer) -> None:
    recorder = await server(ray_nodes)
    rooms = [Room(gpus=0.5, node=ray_nodes.nodes[1].id), Room(cpus=1, gpus=1)]
    recorder.cluster.reserve("gpus", rooms, patience=20)
    reserved = await recorder.event(Reserved, group="gpus")
    assert sorted(reserved.devices) == [["0"], ["1"]]
    await recorder.until(lambda: recorder.node(ray_nodes.nodes[1].id).gpus_free == 0.5)
    # Asked for again under its name, as a server that has come back does, it is the same.
    recorder.cluster.reserve("gpus", rooms, patience=20)
    again = await recorder.until(lambda: [e for e in recorder.events if isinstance(e, Reserved)][1:])
    assert again == [reserved]
    recorder.cluster.release("gpus")
    await recorder.until(lambda: recorder.node(ray_nodes.nodes[1].id).gpus_free == 2)


async def test_room_on_a_node_that_is_not_there_is_refused_at_once(
    ray_nodes: RayClusterProcess, server: MakeServer
) -> None:
    recorder = await server(ray_nodes)
    recorder.cluster.reserve("lost", [Room(cpus=1, node="ab" * 28)], patience=60)
    assert "ab" * 28 in (await recorder.event(ReserveFailed, group="lost")).reason


async def test_what_waits_for_room_is_met_when_there_is_some_and_holds_none(
    ray_nodes: RayClusterProcess, server: MakeServer
) -> None:
    recorder = await server(ray_nodes)
    other = ray_nodes.nodes[1].id
    recorder.cluster.reserve("all", [Room(cpus=6, node=other)], patience=20)
    await recorder.event(Reserved, group="all")
    recorder.cluster.demand([Room(cpus=5), Room(cpus=5), Room(cpus=40)])
    recorder.cluster.demand([Room(cpus=5), Room(cpus=40)])
    recorder.cluster.release("all")
    await recorder.until(lambda: recorder.node(other).cpus_free == 6)
    recorder.cluster.reserve("five", [Room(cpus=5)], patience=20)
    await recorder.event(Reserved, group="five")
    recorder.cluster.demand([])


async def test_an_agent_runs_below_its_node_and_ends_with_what_it_started(
    ray_nodes: RayClusterProcess, server: MakeServer, nodes_place: Path
) -> None:
    recorder = await server(ray_nodes)
    node = ray_nodes.nodes[1].id
    recorder.cluster.start_agent(order(node))
    note = await recorder.until(lambda: note_of(nodes_place, node))
    assert (note["server"], note["node"], note["mode"], float(note["grace"])) == (
        order(node).server,
        node,
        "persistent",
        30,
    )
    variables = note["environment"]
    assert variables["STOKER_AGENT_TOKEN"] == "secret-token" and variables["STOKER_FINGERPRINT"] == "ab" * 32
    assert variables["STOKER_NODE_CPUS"] == "3" and variables["STOKER_NODE_MEMORY"] == str(1 << 30)
    assert not [name for name in variables if name.startswith(("CUDA_", "RAY_"))]  # of the actor's, none
    assert Path(note["run_dir"]).is_relative_to(nodes_place / "r") and len(note["run_dir"]) < 90
    assert b"secret" not in Path(f"/proc/{note['pid']}/cmdline").read_bytes()
    recorder.cluster.start_agent(order(node))  # it stays
    recorder.cluster.stop_agent(node)
    ended = await recorder.event(AgentEnded, node=node)
    assert "exit status 0" in ended.reason
    assert is_gone(note["pid"]) and is_gone(note["child"])
    assert recorder.node(node).problem == ""


async def test_an_agent_that_ends_says_how(ray_nodes: RayClusterProcess, server: MakeServer, nodes_place: Path) -> None:
    recorder = await server(ray_nodes, owner="brief")
    node = ray_nodes.nodes[0].id
    recorder.cluster.start_agent(order(node, behaviour="/brief"))
    ended = await recorder.event(AgentEnded, node=node)
    assert "exit status 3" in ended.reason and "the grace is over" in ended.reason
    note = note_of(nodes_place, node, "brief")
    assert note is not None and is_gone(note["child"])


async def test_a_bridge_that_is_killed_is_replaced_and_nothing_ends(
    ray_nodes: RayClusterProcess, server: MakeServer, nodes_place: Path
) -> None:
    recorder = await server(ray_nodes, owner="killed")
    node = ray_nodes.nodes[1].id
    rooms = [Room(cpus=1, gpus=1, node=node)]
    recorder.cluster.reserve("kept", rooms, patience=20)
    first = await recorder.event(Reserved, group="kept")
    recorder.cluster.start_agent(order(node))
    note = await recorder.until(lambda: note_of(nodes_place, node, "killed"))
    os.kill(bridge_of(recorder), signal.SIGKILL)
    recorder.cluster.reserve("meanwhile", [Room(cpus=1)], patience=30)
    await recorder.event(ClusterLost)
    since = len(recorder.events)
    assert (await recorder.event(ClusterBack, since)).groups == {"kept": [Room(cpus=1, gpus=1, node=node)]}
    await recorder.event(NodesSeen, since)
    await recorder.event(Reserved, since, group="meanwhile")
    recorder.cluster.reserve("kept", rooms, patience=20)
    assert await recorder.event(Reserved, since, group="kept") == first
    assert not is_gone(note["pid"]) and not [e for e in recorder.events if isinstance(e, AgentEnded)]
    recorder.cluster.stop_agent(node)
    await recorder.event(AgentEnded, since, node=node)


async def test_a_server_that_comes_back_finds_its_own_and_not_another_s(
    ray_nodes: RayClusterProcess, server: MakeServer, nodes_place: Path
) -> None:
    first, other = await server(ray_nodes, owner="first"), await server(ray_nodes, owner="other")
    node = ray_nodes.nodes[0].id
    for recorder in (first, other):
        recorder.cluster.reserve("same", [Room(cpus=1, node=node)], patience=20)
        await recorder.event(Reserved, group="same")
    first.cluster.start_agent(order(node))
    note = await first.until(lambda: note_of(nodes_place, node, "first"))
    await first.cluster.abandon()
    again = await server(ray_nodes, owner="first")
    assert again.events[0] == ClusterBack({"same": [Room(cpus=1, node=node)]})
    again.cluster.start_agent(order(node))
    again.cluster.release("same")
    await again.until(lambda: again.node(node).cpus_free == 3)
    assert not is_gone(note["pid"])
    began = time.monotonic()
    await again.cluster.shut_down()
    assert is_gone(note["pid"]) and is_gone(note["child"]) and time.monotonic() - began < 30
    assert (await other.event(Reserved, group="same")).nodes == [node]


async def test_a_server_that_ends_leaves_nothing_on_the_cluster(
    ray_nodes: RayClusterProcess, server: MakeServer
) -> None:
    recorder = await server(ray_nodes, owner="tidy")
    recorder.cluster.reserve("g", [Room(cpus=1, gpus=1)], patience=20)
    recorder.cluster.demand([Room(cpus=50)])
    for node in ray_nodes.nodes:
        recorder.cluster.start_agent(order(node.id))
    await recorder.event(Reserved, group="g")
    await recorder.cluster.shut_down()
    witness = await server(ray_nodes, owner="tidy")
    assert witness.events[0] == ClusterBack({})
    await witness.until(lambda: all(n.cpus_free == n.cpus and n.gpus_free == n.gpus for n in witness.nodes))


async def test_a_bridge_ends_with_its_server(ray_nodes: RayClusterProcess, server: MakeServer) -> None:
    recorder: Recorder = await server(ray_nodes, owner="gone")
    pid = bridge_of(recorder)
    assert pid
    await asyncio.wait_for(recorder.cluster.abandon(), 10)
    assert is_gone(pid)


@pytest.mark.parametrize(
    "change", [{"server": "stoker://10.0.0.1:4001"}, {"token": "another"}, {"fingerprint": "cd" * 32}], ids=list
)
async def test_an_agent_whose_server_is_elsewhere_or_another_is_ended(
    ray_nodes: RayClusterProcess, server: MakeServer, nodes_place: Path, change: dict[str, Any]
) -> None:
    """As where a standby has taken over: an agent that it does not let in would hold its node's room for minutes."""
    owner = f"moved_{next(iter(change))[:8]}"
    first = await server(ray_nodes, owner=owner)
    node = ray_nodes.head.id
    first.cluster.start_agent(order(node))
    note = await first.until(lambda: note_of(nodes_place, node, owner))
    await first.cluster.abandon()
    second = await server(ray_nodes, owner=owner)
    elsewhere = replace(order(node), **change)
    second.cluster.start_agent(elsewhere)
    await second.event(AgentEnded, node=node)
    assert is_gone(note["pid"]) and is_gone(note["child"])
    second.cluster.start_agent(elsewhere)
    await second.until(lambda: (new := note_of(nodes_place, node, owner)) and new["pid"] != note["pid"])
    second.cluster.stop_agent(node)
    await second.event(AgentEnded, len(second.events), node=node)
