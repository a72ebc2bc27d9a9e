"""One Ray of two nodes and one server on it for all tests that break neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.client import session as sessions
from tests.faults.running import PersistentServer
from tests.on_ray.gate import Gate
from tests.on_ray.running import OnRay, on_ray

HERE = Path(__file__).parent
SECONDS = 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have a test's time begin when its Ray is there, which takes from ten seconds to two minutes."""
    for item in items:
        if item.path.is_relative_to(HERE):
            mark = item.get_closest_marker("timeout")
            item.add_marker(pytest.mark.timeout(mark.args[0] if mark else SECONDS, func_only=True), append=False)


@pytest.fixture(scope="package")
def two_nodes() -> Iterator[OnRay]:
    with on_ray(gpus=2) as found:
        yield found


@pytest.fixture
def ray(two_nodes: OnRay) -> OnRay:
    """Return the Ray that this test runs on; modules whose tests break it have another."""
    return two_nodes


@pytest.fixture(autouse=True)
def runtime_dir(ray: OnRay, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have programs find the server on the Ray; afterwards nothing of theirs may be left there."""
    for name, value in ray.environment.items():
        monkeypatch.setenv(name, value)
    yield ray.runtime
    ray.check_idle()
    sessions.close()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture
def own_home(ray: OnRay) -> Path:
    return ray.home


@pytest.fixture
def server(ray: OnRay) -> PersistentServer:
    """Return the server that runs, which a test may kill and start again."""
    return ray.server
