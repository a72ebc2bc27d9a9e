"""The Ray engine's books and its successor's knowledge, when nodes, agents and the cluster go at a bad moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stoker.engine.base import Bundle, Event
from stoker.engine.ray import engine as ray_engine
from tests.engine.ray.fake_cluster import FakeCluster, machine
from tests.engine.ray.test_engine import Two, engine_on
from tests.engine.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(ray_engine, "RESTART_FIRST_SECONDS", 0.01)


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
