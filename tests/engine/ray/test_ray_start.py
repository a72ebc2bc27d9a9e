"""`stoker server start` on a Ray that cannot be used: it says why, and has taken no work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from stoker import paths
from tests.engine.ray.conftest import TOKEN
from tests.engine.ray.versions import told_version
from tests.ray_clusters import RayClusterProcess, free_port

pytestmark = [pytest.mark.usefixtures("no_token", "own_home"), pytest.mark.timeout(120)]


def stoker(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stoker.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=90)


def refused(address: str) -> str:
    """Return what is said where a server does not start; nothing of it is there afterwards."""
    done = stoker("server", "start", "--engine", "ray", "--ray-address", address, "--listen", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (1, "")
    assert not (paths.server_runtime() / "server.sock").exists()
    assert stoker("server", "status").returncode == 1
    return " ".join(done.stderr.split())


def test_there_is_no_ray() -> None:
    port = free_port()
    assert re.match(rf"error: No Ray answers at [0-9.]+:{port}: ", refused(f"127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("ray_version", "python_version"), [("2.11.0", ""), ("", "3.9.18")], ids=["another-ray", "another-python"]
)
def test_it_is_of_another_version(ray_nodes: RayClusterProcess, ray_version: str, python_version: str) -> None:
    with told_version(ray_nodes.address, ray_version=ray_version, python_version=python_version) as ours:
        said = refused(ray_nodes.address)
    for version in (*ours.values(), ray_version, python_version):
        assert version in said


def test_it_wants_a_token(guarded: RayClusterProcess) -> None:
    assert "RAY_AUTH_MODE=token" in refused(guarded.address)


def test_it_was_given_its_token(guarded: RayClusterProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    words = ("--engine", "ray", "--ray-address", guarded.address, "--listen", "127.0.0.1:0")
    done = stoker("server", "start", *words, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["started"], done.stderr
    assert stoker("server", "stop").returncode == 0
