"""The local engine with a real agent: the contract, and what only it does."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stoker.engine.base import Bundle, Event, NodeJoined, NodeLost, WorkerDown, WorkerSpec, WorkerUp
from stoker.engine.local.engine import LocalEngine
from stoker.protocol.messages import Hello, LogLines
from stoker.types import FunctionSpec
from tests.engine.conftest import Bench
from tests.engine.contract import EngineContract
from tests.engine.fake_server import FakeServer
from tests.engine.waiting import until


class Link:
    """The test server's connection, as the engine wants it."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def send(self, message: Any) -> None:
        self._server.send(message)

    def flush(self) -> None:
        return

    def close(self) -> None:
        return


def connect(server: FakeServer, engine: LocalEngine) -> None:
    """Have the server hand the agent's connection to the engine."""
    links: list[Link] = []

    def greeted(server: FakeServer, hello: Hello) -> None:
        links.append(Link(server))
        engine.attach(links[-1], hello, term=server.term)

    server.on_hello = greeted
    server.on_message = lambda message: engine.deliver(links[-1], message)
    server.on_gone = lambda: engine.detach(links[-1])


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def engine(bench: Bench, events: list[Event]) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(bench.config)
    engine.set_listener(events.append)
    connect(bench.server, engine)
    await engine.start_up()
    yield engine
    await engine.shut_down(grace=1.0)


@pytest.fixture
def function(bench: Bench) -> FunctionSpec:
    return bench.function(body="import time; print('up', flush=True); time.sleep(600)")


class TestLocalEngine(EngineContract):
    async def test_output_is_flushed(self, engine: LocalEngine, events: list[Event], function: FunctionSpec) -> None:
        await self.joined(engine, events)
        grants = engine.reserve([Bundle(1.0)])
        assert grants is not None
        engine.start(grants[0], WorkerSpec("w1", function, "t"))
        await until(lambda: (engine_log := _texts(events)) and "up" in engine_log, what="output")
        await engine.flush_logs()
        lines = await engine.ask("logs", {"worker": "w1"})
        assert [line["text"] for line in lines] == ["up"]

    async def test_a_killed_agent_is_replaced_and_adopts(
        self, engine: LocalEngine, events: list[Event], function: FunctionSpec
    ) -> None:
        await self.joined(engine, events)
        grants = engine.reserve([Bundle(1.0)])
        assert grants is not None
        engine.start(grants[0], WorkerSpec("w1", function, "t"))
        await until(lambda: self.of(events, "w1"), what="w1")
        inventory = await engine.ask("inventory")
        os.kill(inventory["pid"], signal.SIGKILL)
        joined = await until(
            lambda: [event for event in events if isinstance(event, NodeJoined)][1:], what="a new agent"
        )
        assert any(isinstance(event, NodeLost) for event in events)
        assert [(one.worker, one.function) for one in joined[0].workers] == [("w1", function.key)]
        assert joined[0].workers[0].grant == grants[0]
        assert self.of(events, "w1") == [WorkerUp]
        engine.stop("w1", grace=2.0, reason="done")
        await until(lambda: self.of(events, "w1")[1:] == [WorkerDown], what="the adopted worker's end")

    async def test_a_new_server_takes_over_a_living_agent(
        self, bench: Bench, engine: LocalEngine, events: list[Event], function: FunctionSpec
    ) -> None:
        await self.joined(engine, events)
        grants = engine.reserve([Bundle(1.0)])
        assert grants is not None
        engine.start(grants[0], WorkerSpec("w1", function, "t"))
        await until(lambda: self.of(events, "w1"), what="w1")
        heir = LocalEngine(bench.config)
        assert heir.expected_nodes() == ["local"]
        heard: list[Event] = []
        heir.set_listener(heard.append)
        await bench.server.close()
        server = FakeServer(bench.config.server_socket, term=2)
        connect(server, heir)
        await server.listen()
        await heir.start_up()
        await self.joined(heir, heard)
        assert heir.expected_nodes() == [] and heir.nodes()[0].cpus_free == 3.0
        await heir.shut_down(grace=2.0)
        assert self.of(heard, "w1") == [WorkerDown]
        await server.close()


def _texts(events: list[Event]) -> list[str]:
    return [text for event in events if isinstance(event, LogLines) for text in event.texts]
