"""Addresses of clusters that cannot be used: each has its own error, before any work is taken."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stoker.engine.ray import ray_cluster
from stoker.engine.ray.bridge import reaching
from stoker.engine.ray.ray_cluster import RayCluster
from stoker.errors import ConnectionFailed, InvalidOption, InvalidRequest, PermissionDenied, VersionMismatch
from tests.engine.ray.conftest import TOKEN
from tests.engine.ray.versions import told_version
from tests.ray_clusters import RayClusterProcess

AT_MOST_SECONDS = 20.0  # 14 and what a busy machine needs to end a process


pytestmark = pytest.mark.usefixtures("no_token")


def cluster_at(address: str, tmp_path: Path) -> RayCluster:
    return RayCluster(address=address, owner="bad", state_dir=tmp_path)


async def test_an_address_where_nothing_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    with pytest.raises(ConnectionFailed, match=rf":{port}.*refused"):
        await cluster_at(f"127.0.0.1:{port}", tmp_path).start_up()


async def test_an_address_where_something_else_is(tmp_path: Path) -> None:
    began = time.monotonic()
    with socket.create_server(("", 0)) as door, pytest.raises(ConnectionFailed, match="did not answer"):
        await cluster_at(f"127.0.0.1:{door.getsockname()[1]}", tmp_path).start_up()
    assert time.monotonic() - began < AT_MOST_SECONDS


def test_a_machine_where_no_ray_runs() -> None:
    # Other clusters of these tests may run here: they are hidden from it.
    done = subprocess.run([sys.executable, "-c", _AUTO], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("ConnectionFailed: No Ray runs on this machine")


@pytest.mark.parametrize("address", ["nonsense", "host:port"])
async def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{address} is no address"):
        await cluster_at(address, tmp_path).start_up()


def test_the_address_of_a_client_server(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="ray://host:10001"):
        cluster_at("ray://host:10001", tmp_path)


async def test_ray_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=r"pip install 'stoker\[ray\]'"):
        await cluster_at("auto", tmp_path).start_up()
    assert ray_cluster.importlib.util.find_spec("ray") is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ray_version", "python_version"), [("2.11.0", ""), ("", "3.9.18")], ids=["another-ray", "another-python"]
)
async def test_another_version(
    ray_nodes: RayClusterProcess, tmp_path: Path, ray_version: str, python_version: str
) -> None:
    told = told_version(ray_nodes.address, ray_version=ray_version, python_version=python_version)
    with told as true, pytest.raises(VersionMismatch) as caught:
        await cluster_at(ray_nodes.address, tmp_path).start_up()
    for version in (*true.values(), ray_version, python_version):
        assert version in str(caught.value)


async def test_no_token(guarded: RayClusterProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionDenied, match="RAY_AUTH_MODE=token"):
        await cluster_at(guarded.address, tmp_path).start_up()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(PermissionDenied, match="there is no token in"):
        await cluster_at(guarded.address, tmp_path).start_up()


async def test_the_wrong_token(guarded: RayClusterProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    with pytest.raises(PermissionDenied, match=guarded.address):
        await cluster_at(guarded.address, tmp_path).start_up()


async def test_the_right_token(guarded: RayClusterProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    cluster = cluster_at(guarded.address, tmp_path)
    await cluster.start_up()
    await cluster.shut_down()


def test_a_token_that_is_here_is_shown_to_a_ray_on_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    for address, mode in (("10.0.0.1:6379", None), ("auto", "token")):
        reaching._check_token(address)
        assert os.environ.get("RAY_AUTH_MODE") == mode
    monkeypatch.delenv("RAY_AUTH_MODE")


_AUTO = """
from ray._private import services
from stoker.engine.ray.bridge.reaching import reach
services.find_gcs_addresses = lambda: set()
try:
    reach("auto")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
