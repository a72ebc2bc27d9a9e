from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stoker.engine.base import Event
from stoker.testing.seams import FakeEngine
from stoker.types import CodeRef, FunctionSpec, ImageSpec
from tests.engine.contract import EngineContract


class TestFakeEngine(EngineContract):
    @pytest.fixture
    def events(self) -> list[Event]:
        return []

    @pytest.fixture
    async def engine(self, events: list[Event]) -> AsyncIterator[FakeEngine]:
        engine = FakeEngine()
        engine.set_listener(events.append)
        await engine.start_up()
        yield engine

    @pytest.fixture
    def function(self) -> FunctionSpec:
        return FunctionSpec("app", "f", CodeRef(module="m"), ImageSpec("3.12"))
