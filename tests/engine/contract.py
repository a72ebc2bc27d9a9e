"""What holds for every engine; each implementation's test module subclasses `EngineContract`."""

from __future__ import annotations

from functools import partial

import pytest

from stoker.engine.base import Bundle, Engine, Event, NodeJoined, StartRefused, WorkerDown, WorkerSpec, WorkerUp
from stoker.errors import StokerError
from stoker.types import FunctionSpec
from tests.engine.waiting import until


class EngineContract:
    """The fixtures: ``engine`` has been started up and has one node of 4 CPUs and 4 GiB; ``events`` are all it told."""

    async def joined(self, engine: Engine, events: list[Event]) -> None:
        await until(lambda: any(isinstance(event, NodeJoined) for event in events), what="the node")

    @staticmethod
    def of(events: list[Event], worker: str) -> list[type]:
        kinds = (WorkerUp, StartRefused, WorkerDown)
        return [type(event) for event in events if isinstance(event, kinds) and event.worker == worker]

    async def test_a_node_joins(self, engine: Engine, events: list[Event]) -> None:
        await self.joined(engine, events)
        (node,) = engine.nodes()
        assert (node.cpus, node.cpus_free, node.memory_free) == (4.0, 4.0, 4 << 30)

    async def test_all_bundles_are_granted_or_none(self, engine: Engine, events: list[Event]) -> None:
        await self.joined(engine, events)
        assert engine.reserve([Bundle(3.0), Bundle(2.0)]) is None
        grants = engine.reserve([Bundle(3.0, 1 << 30), Bundle(1.0)])
        assert grants is not None and [(grant.cpus, grant.memory) for grant in grants] == [(3.0, 1 << 30), (1.0, 0)]
        assert engine.reserve([Bundle(0.5)]) is None
        engine.release(grants[1])
        engine.release(grants[1])
        assert engine.nodes()[0].cpus_free == 1.0
        assert engine.reserve([Bundle(0.5, 4 << 30)]) is None

    async def test_labels_that_no_node_has(self, engine: Engine, events: list[Event]) -> None:
        await self.joined(engine, events)
        assert engine.reserve([Bundle(1.0, labels={"zone": "nowhere"})]) is None

    async def test_a_worker_comes_up_and_is_stopped(
        self, engine: Engine, events: list[Event], function: FunctionSpec
    ) -> None:
        await self.joined(engine, events)
        grants = engine.reserve([Bundle(1.0)])
        assert grants is not None
        engine.start(grants[0], WorkerSpec("w1", function, "t"))
        assert self.of(events, "w1") == []
        await until(lambda: self.of(events, "w1"), what="w1")
        engine.stop("w1", grace=5.0, reason="enough")
        engine.stop("w1", grace=5.0)
        engine.stop("nobody", grace=5.0)
        await until(lambda: len(self.of(events, "w1")) == 2, what="the end of w1")
        assert self.of(events, "w1") == [WorkerUp, WorkerDown]
        down = next(event for event in events if isinstance(event, WorkerDown))
        assert down.cause == "stopped"
        assert engine.nodes()[0].cpus_free == 3.0
        engine.start(grants[0], WorkerSpec("w2", function, "t"))
        await until(lambda: self.of(events, "w2"), what="another worker on the same grant")

    async def test_lent_cores_can_be_granted(self, engine: Engine, events: list[Event], function: FunctionSpec) -> None:
        await self.joined(engine, events)
        grants = engine.reserve([Bundle(4.0)])
        assert grants is not None
        engine.start(grants[0], WorkerSpec("w1", function, "t"))
        await until(lambda: self.of(events, "w1"), what="w1")
        engine.lend(grants[0], lent=True)
        borrowed = engine.reserve([Bundle(2.0)])
        assert borrowed is not None
        engine.start(borrowed[0], WorkerSpec("w2", function, "t"))
        await until(lambda: self.of(events, "w2"), what="w2")
        assert self.of(events, "w2") == [WorkerUp]
        engine.lend(grants[0], lent=False)
        assert engine.reserve([Bundle(0.5)]) is None

    async def test_shut_down_ends_every_worker(
        self, engine: Engine, events: list[Event], function: FunctionSpec
    ) -> None:
        await self.joined(engine, events)
        for worker in ("w1", "w2"):
            grants = engine.reserve([Bundle(1.0)])
            assert grants is not None
            engine.start(grants[0], WorkerSpec(worker, function, "t"))
            await until(partial(self.of, events, worker), what=worker)
        await engine.shut_down(grace=5.0)
        assert self.of(events, "w1") == self.of(events, "w2") == [WorkerUp, WorkerDown]
        assert engine.nodes() == []
        with pytest.raises(StokerError):
            await engine.ask("inventory")
