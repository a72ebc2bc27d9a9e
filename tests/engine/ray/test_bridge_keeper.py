"""How the server's side keeps its bridge, with bridges of the test's own: no Ray is needed for this."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stoker.engine.ray import ray_cluster, wire
from stoker.engine.ray.cluster import (
    AgentEnded,
    AgentOrder,
    ClusterBack,
    ClusterEvent,
    ClusterLost,
    ClusterNode,
    NodesSeen,
)
from stoker.engine.ray.ray_cluster import RayCluster
from tests.engine.waiting import until

NODE = ClusterNode("n1", "10.0.0.1", 4.0, 1 << 30, 4.0, 1 << 30)


class Bridge:
    """A bridge that says what the test has it say; ``failing`` of them cannot be started."""

    failing = 0
    made: list[Bridge] = []  # noqa: RUF012 - a new one for each test

    def __init__(self) -> None:
        self.orders: list[Any] = []
        self.said: asyncio.Queue[Any] = asyncio.Queue()
        self.ended_all: asyncio.Future[list[str]] | None = None

    @classmethod
    async def start(cls, output: Path) -> Bridge:
        if cls.failing:
            cls.failing -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        bridge = cls()
        cls.made.append(bridge)
        bridge.said.put_nowait(wire.Reached("10.0.0.9", "10.0.0.1:6379", {}, []))
        bridge.said.put_nowait(NodesSeen([NODE]))
        return bridge

    def send(self, order: Any) -> None:
        self.orders.append(order)

    async def receive(self) -> Any:
        return await self.said.get()

    async def end(self, *, patience: float = 0.0) -> None:
        return

    def last_words(self) -> str:
        return "its head is gone"


@pytest.fixture
def events() -> list[ClusterEvent]:
    return []


@pytest.fixture
async def cluster(
    events: list[ClusterEvent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RayCluster]:
    monkeypatch.setattr(Bridge, "made", [])
    monkeypatch.setattr(ray_cluster, "_Bridge", Bridge)
    monkeypatch.setattr(ray_cluster, "RESTART_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(ray_cluster, "PROBLEM_SECONDS", 0.1)
    made = RayCluster(address="auto", owner="tests", state_dir=tmp_path)
    made.set_listener(events.append)
    await made.start_up()
    yield made
    await made.abandon()


async def test_a_bridge_that_cannot_be_started_just_now_is_started_later(
    cluster: RayCluster, events: list[ClusterEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bridge, "failing", 2)
    Bridge.made[0].said.put_nowait(None)
    await until(lambda: len(Bridge.made) == 2, what="another bridge", patience=5.0)
    await until(lambda: isinstance(events[-1], NodesSeen), what="its nodes")
    kinds = [type(event) for event in events]
    assert kinds == [ClusterBack, NodesSeen, ClusterLost, ClusterBack, NodesSeen]


async def test_a_node_that_could_run_no_agent_is_tried_again_though_nothing_else_changes(
    cluster: RayCluster, events: list[ClusterEvent]
) -> None:
    cluster.start_agent(AgentOrder("n1", "stoker://10.0.0.9:7", "token"))
    (bridge,) = Bridge.made
    bridge.said.put_nowait(AgentEnded("n1", "it could not be started within 60 s"))
    bridge.said.put_nowait(NodesSeen([NODE]))  # as one that something else changed on just then
    await until(lambda: [one.nodes[0].problem for one in _seen(events)][-1], what="its problem")
    await until(lambda: not [one.nodes[0].problem for one in _seen(events)][-1], what="another try", patience=5.0)


def _seen(events: list[ClusterEvent]) -> list[NodesSeen]:
    return [event for event in events if isinstance(event, NodesSeen)]
