"""Beats of an agent whose server is elsewhere: they wait for nothing else that the agent does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from stoker.blobs.base import BlobStore
from stoker.engine.local import agent as agents
from stoker.engine.local.agent import Agent
from stoker.engine.local.config import AgentConfig
from stoker.protocol.messages import Beat
from tests.engine.waiting import until


class Link:
    connected = True
    slow = False

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    monkeypatch.setattr(agents, "TICK_SECONDS", 0.01)
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    config = AgentConfig(
        run_dir=tmp_path / "run",
        state_dir=tmp_path / "state",
        server="stoker://127.0.0.1:1",
        node="n1",
        mode="persistent",
        limits="watch",
    )
    config.run_dir.mkdir()
    config.state_dir.mkdir()
    made = Agent(config, blobs=cast(BlobStore, None))
    yield made
    made._logs.close()


async def test_beats_do_not_wait_for_threads(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start that waits for an environment holds one of the loop's threads, for minutes."""
    link = Link()
    monkeypatch.setattr(agent, "_link", link)
    free = threading.Event()
    monkeypatch.setattr(agents, "prune", lambda *_, **__: free.wait(60))
    monkeypatch.setattr(agents, "HOUSEKEEPING_SECONDS", 0.0)
    monkeypatch.setattr("stoker.engine.local.lease.BEAT_SECONDS", 0.01)
    tasks = [asyncio.create_task(agent._tick()), asyncio.create_task(agent._beats())]
    try:
        await until(lambda: len([one for one in link.sent if isinstance(one, Beat)]) > 20, what="beats", patience=5.0)
    finally:
        free.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
