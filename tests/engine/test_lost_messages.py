"""What a broken connection between the same agent and the same server swallows: orders, answers, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stoker._version import __version__
from stoker.engine.base import Bundle, Event, NodeJoined, StartRefused, WorkerDown, WorkerSpec, WorkerUp
from stoker.engine.local.config import AgentConfig
from stoker.engine.local.engine import LocalEngine
from stoker.protocol import messages as m
from tests.core.world import spec
from tests.engine.conftest import Bench
from tests.engine.fake_server import order
from tests.engine.waiting import until


class Wire:
    """One connection of the agent, as the engine has it; the test is the agent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def flush(self) -> None:
        return

    def close(self) -> None:
        return


class Node:
    """An engine whose agent is the test."""

    def __init__(self, root: Path) -> None:
        self.events: list[Event] = []
        self.engine = LocalEngine(AgentConfig(root, root, root / "server.sock"))
        self.engine.set_listener(self.events.append)
        self.connect()

    def connect(
        self, *, up: tuple[str, ...] = (), starting: tuple[str, ...] = (), before: tuple[Any, ...] = ()
    ) -> None:
        self.wire = Wire()
        self.engine.attach(self.wire, m.Hello("agent", "local", __version__, pid=77), term=1)
        count = len(up)
        columns = (list(up), ["key"] * count, [5] * count, [1.0] * count, [0] * count)
        for message in before:
            self.say(message)
        self.say(m.NodeState(4.0, 4 << 30, 4.0, 4 << 30, {}, *columns, starting=list(starting)))

    def disconnect(self) -> None:
        self.engine.detach(self.wire)

    def say(self, message: Any) -> None:
        assert self.engine.deliver(self.wire, message)

    def start(self, worker: str) -> None:
        grants = self.engine.reserve([Bundle(1.0)])
        assert grants is not None
        self.engine.start(grants[0], WorkerSpec(worker, spec(), "t"))

    def told(self, worker: str) -> list[type]:
        kinds = (WorkerUp, StartRefused, WorkerDown)
        return [type(event) for event in self.events if isinstance(event, kinds) and event.worker == worker]

    def joined(self) -> NodeJoined:
        return [event for event in self.events if isinstance(event, NodeJoined)][-1]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_a_start_that_never_arrived_is_refused_to_be_ordered_again(node: Node) -> None:
    node.start("w1")
    node.disconnect()
    node.connect()
    assert node.told("w1") == [StartRefused]
    assert [event.retry for event in node.events if isinstance(event, StartRefused)] == [True]


async def test_a_start_on_its_way_goes_on(node: Node) -> None:
    node.start("w1")
    node.disconnect()
    node.connect(starting=("w1",))
    assert node.told("w1") == []
    assert node.joined().starting == ["w1"]
    node.say(m.WorkerStarted("w1", 5, "fork"))
    assert node.told("w1") == [WorkerUp]


async def test_the_end_of_a_worker_that_was_not_heard_is_made_up_for(node: Node) -> None:
    node.start("w1")
    node.say(m.WorkerStarted("w1", 5, "fork"))
    node.disconnect()
    node.connect()
    assert node.told("w1") == [WorkerUp, WorkerDown]


async def test_reports_that_are_said_again_are_heard_once(node: Node) -> None:
    node.start("w1")
    said = (m.WorkerStarted("w1", 5, "fork"), m.WorkerExited("w1", "memory", "too much"))
    node.say(said[0])
    node.disconnect()
    node.connect(before=said)
    assert node.told("w1") == [WorkerUp, WorkerDown]
    assert [event.cause for event in node.events if isinstance(event, WorkerDown)] == ["memory"]


async def test_lending_is_said_again(node: Node) -> None:
    node.start("w1")
    node.say(m.WorkerStarted("w1", 5, "fork"))
    node.disconnect()
    (grant,) = node.engine._node.grants.values()
    node.engine.lend(grant, lent=True)
    node.connect(up=("w1",))
    lends = [one.params for one in node.wire.sent if isinstance(one, m.Request) and one.verb == "lend"]
    assert lends == [{"worker": "w1", "cpus": 0.0}]


async def test_an_agent_goes_on_with_its_starts_and_says_its_reports_again(bench: Bench) -> None:
    bench.start_agent()
    await bench.server.get(m.NodeState)
    slow = bench.function(load="import time; time.sleep(1.5)", body="import time; time.sleep(600)")
    brief = bench.function(name="brief", body="raise SystemExit(3)")
    bench.server.send(order("w1", brief))
    await bench.server.get(m.WorkerExited, worker="w1")
    bench.server.send(order("w2", slow))
    await bench.server.get(m.Phase, worker="w2", phase="starting")
    bench.server.messages.clear()
    bench.server.drop()
    state = await bench.server.get(m.NodeState)
    assert (state.workers, state.starting) == ([], ["w2"])
    again = [type(one) for one in bench.server.messages if getattr(one, "worker", "") == "w1"]
    assert again == [m.WorkerStarted, m.WorkerExited]
    await bench.server.get(m.WorkerStarted, worker="w2")
    bench.server.drop()
    await until(lambda: bench.server.all(m.NodeState)[-1].workers == ["w2"], what="the worker named once")
