"""One Ray of two nodes for all tests that do not break it, and a `RayCluster` on it that records its events."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.ray.recorder import Recorder
from tests.ray_clusters import RayClusterProcess, two_nodes

TOKEN = "0123456789abcdef" * 2
STAND_IN = Path(__file__).with_name("agent_stand_in.py")

MakeServer = Callable[..., Awaitable[Recorder]]


def node_environment(place: Path) -> dict[str, str]:
    """Return what the nodes of a test are started with: directories of their own, and no real agent."""
    return {
        "STOKER_HOME": str(place / "home"),
        "STOKER_RUNTIME_DIR": str(place / "r"),
        "STOKER_AGENT_PROGRAM": str(STAND_IN),
    }


@pytest.fixture(scope="package")
def nodes_place() -> Iterator[Path]:
    """Return where the nodes keep their things."""
    place = Path(tempfile.mkdtemp(prefix="rn", dir=os.environ["STOKER_TEST_ROOT"]))
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="package")
def ray_nodes(nodes_place: Path) -> Iterator[RayClusterProcess]:
    with two_nodes(env=node_environment(nodes_place)) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def guarded() -> Iterator[RayClusterProcess]:
    """Have a cluster that wants a token."""
    cluster = RayClusterProcess(env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})
    try:
        cluster.add_node(cpus=1)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what the person who runs the tests may have."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that it is restored, too, when what is tested sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MakeServer]:
    """Return what makes a server's side of the seam; each is ended with all that it has on the cluster."""
    made: list[Recorder] = []

    async def make(cluster: RayClusterProcess, *, owner: str = "tests", address: str = "") -> Recorder:
        recorder = Recorder(address=address or cluster.address, owner=owner, state_dir=tmp_path / owner)
        made.append(recorder)
        await recorder.cluster.start_up()
        return recorder

    yield make
    for recorder in made:
        await recorder.cluster.shut_down()
