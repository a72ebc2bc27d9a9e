"""A server on PostgreSQL is killed, and a standby goes on with its calls on the same Ray, with agents of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import stoker
from stoker.client import session as sessions
from tests.faults.running import PersistentServer
from tests.on_ray.gate import Gate
from tests.on_ray.running import OnRay
from tests.on_ray.work import app
from tests.postgres import PostgresServer
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(200)]


@pytest.fixture
def ray(two_nodes: OnRay) -> Iterator[OnRay]:
    """Have the Ray alone, without the server that other tests use there."""
    two_nodes.stop()
    yield two_nodes
    two_nodes.start()


@pytest.fixture(autouse=True)
def runtime_dir(ray: OnRay) -> Path:
    return ray.runtime


@pytest.fixture
def places(ray: OnRay, postgres: PostgresServer, schema: str) -> Iterator[list[dict[str, str]]]:
    """Return the environments of two servers: what they share is the database, the source of functions and the port."""
    found = []
    for name in ("s1", "s2"):
        home = ray.home.with_name(f"home-{name}")
        home.mkdir()
        own = {"STOKER_HOME": str(home), "STOKER_RUNTIME_DIR": str(ray.runtime / name)}
        found.append({**ray.environment, **own, "STOKER_STORE": postgres.url(schema)})
    blobs = ray.home.with_name("blobs-of-both")
    blobs.mkdir()
    for place in found:
        (Path(place["STOKER_HOME"]) / "blobs").symlink_to(blobs)
    yield found
    sessions.close()
    for place in found:
        shutil.rmtree(place["STOKER_HOME"])
        shutil.rmtree(place["STOKER_RUNTIME_DIR"], ignore_errors=True)
    shutil.rmtree(blobs)


def test_a_standby_goes_on_with_the_calls_and_has_agents_of_its_own(
    ray: OnRay, places: list[dict[str, str]], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = places
    first, second = PersistentServer(env=one), PersistentServer("--standby", env=other)
    try:
        assert "error" not in first.start()
        use(one, monkeypatch)
        app.deploy()
        tells = stoker.Function[[str, str], str].from_name("on-ray-work", "tells")
        calls = [tells.spawn(*gate.files) for _ in range(4)]
        before = {process for _, process in gate.wait(4)}
        assert f"pid {first.pid}" in str(second.start()["standby"])
        first.kill()
        use(other, monkeypatch)
        wait_until((Path(other["STOKER_RUNTIME_DIR"]) / "server" / "server.sock").exists, timeout=60)
        again = {process for _, process in gate.wait(8, timeout=120)[4:]}
        gate.open()
        results = [stoker.Call.from_id(call.id).result(timeout=60) for call in calls]
        assert sorted(results) == sorted(2 * ray.node_names())
        assert not before & again and len(gate.began) == 8, "the old agents and all that they ran are gone"
        assert len(ray.agents()) == 2
    finally:
        sessions.close()
        second.stop()
        if first.lives:
            first.stop()
    assert not ray.agents() and not ray.cluster.groups()


def use(place: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    sessions.close()
    for name, value in place.items():
        monkeypatch.setenv(name, value)
