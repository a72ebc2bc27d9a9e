from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stoker.engine.local import processes
from stoker.engine.local.config import RUN_MARKER, AgentConfig
from stoker.runner import marks
from stoker.types import FunctionSpec, ImageSpec
from tests.engine import fake_server
from tests.engine.fake_server import AgentProcess, FakeServer, local_image
from tests.server.conftest import start  # noqa: F401 - a fixture: real servers, for what nodes have of them


@dataclass
class Bench:
    """A run of its own: directories, a server that listens, agents."""

    config: AgentConfig
    server: FakeServer
    image: ImageSpec
    agents: list[AgentProcess] = field(default_factory=list)

    def start_agent(self, **changes: Any) -> AgentProcess:
        agent = AgentProcess(replace(self.config, **changes))
        self.agents.append(agent)
        return agent

    def function(self, **words: Any) -> FunctionSpec:
        return fake_server.function(image=self.image, **words)

    def left(self) -> list[int]:
        """Return the processes of this run that live."""
        marked = processes.with_environment({os.fsencode(f"{RUN_MARKER}={self.config.marker}")})
        return [pid for pid in marked if processes.start_time(pid) is not None]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="stk-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def image() -> ImageSpec:
    return local_image()


@pytest.fixture
async def bench(short_path: Path, image: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setenv("STOKER_HOME", str(short_path / "home"))
    monkeypatch.setenv("STOKER_RUNTIME_DIR", str(short_path / "rt"))
    monkeypatch.setenv("STOKER_NODE_CPUS", "4")
    monkeypatch.setenv("STOKER_NODE_MEMORY", "4GiB")
    run = short_path / "run"
    run.mkdir(mode=0o700)
    runner = short_path / "runner" / "stoker" / "runner"
    runner.mkdir(parents=True)
    (runner / "bootstrap.py").symlink_to(Path(__file__).with_name("stub_runner.py"))
    (runner / "marks.py").symlink_to(str(marks.__file__))
    config = AgentConfig(run, short_path / "state", run / "server.sock", runner=str(short_path / "runner"))
    server = FakeServer(config.server_socket)
    await server.listen()
    bench = Bench(config, server, image)
    yield bench
    for agent in bench.agents:
        await agent.end()
    await server.close()
    assert bench.left() == []
