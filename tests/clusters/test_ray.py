"""Ray clusters out of gangs: real ones, each in a program of its own, whose driver is that program."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import stoker
from stoker.clusters import ray_driver, ray_ranks
from tests import leftovers
from tests.faults.running import Program
from tests.waiting import wait_until

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
USES = Path(__file__).parent / "programs" / "uses_ray.py"


def program(how: str) -> Program:
    return Program(USES, how, env={"PYTHONPATH": str(USES.parents[3]), "PYTHONWARNINGS": "ignore"})


def test_tasks_run_on_all_nodes_and_nothing_is_left(runtime_dir: Path) -> None:
    found = program("end")
    assert found.wait(200) == 0, found.output
    assert "values [0, 1, 4, 9] {'green'}" in found.output
    assert "nodes 2 2.0 <Ray cluster of 2 at" in found.output
    assert "a stranger is told: RPC error: InvalidAuthToken" in found.output, found.output
    assert "connected to no Ray any more: True None" in found.output
    wait_until(lambda: not leftovers.of(runtime_dir), timeout=20, message="everything is gone")


@pytest.mark.chaos
def test_a_lost_head_wakes_the_program_and_is_named(runtime_dir: Path) -> None:
    found = program("lost")
    assert found.wait(200) == 1, found.output
    assert "rank 0 of 2: killed by signal 9" in found.output.rpartition("stoker.errors.WorkerLost")[2], found.output
    wait_until(lambda: not leftovers.of(runtime_dir), timeout=30, message="everything is gone")


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_its_program_ends_nothing_is_left(number: int, runtime_dir: Path) -> None:
    found = program("hold")
    wait_until(lambda: "ready" in found.output or found.process.poll(), timeout=180, message="it is up")
    found.process.send_signal(number)
    assert found.wait(40) != 0, found.output
    wait_until(lambda: not leftovers.of(runtime_dir), timeout=30, message="everything is gone")


def test_an_image_without_ray_is_told_what_to_install() -> None:
    with pytest.raises(stoker.InvalidRequest, match=rf"no Ray.*ray=={ray.__version__}"):
        stoker.clusters.ray(workers=1, cpu=0.5, image=stoker.Image.python())


def test_more_workers_than_the_machine_has_room_for() -> None:
    with pytest.raises(stoker.Unschedulable, match="50 ranks with 1 CPU each, of which 4 fit"):
        stoker.clusters.ray(workers=50)


def test_a_caller_without_ray_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(stoker.InvalidRequest, match="pip install 'ray"):
        stoker.clusters.ray()


def test_a_program_is_a_driver_of_one_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(stoker.InvalidRequest, match=r"ray\.shutdown\(\)"):
        stoker.clusters.ray()


def test_ranks_that_are_all_on_other_machines_are_an_error_that_says_so() -> None:
    ray_driver.check_here(["192.0.2.77:1", "127.0.0.1:2"])
    with pytest.raises(stoker.ConnectionFailed, match=r"run on 198\.51\.100\.7, and Ray connects"):
        ray_driver.check_here(["198.51.100.7:1"])


@pytest.mark.parametrize(("version", "python"), [("2.0.0", ""), ("", "3.9")])
def test_versions_that_differ_are_both_named(version: str, python: str) -> None:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    plan = ray_ranks.RayPlan(version or ray.__version__, python or here, cpus=1, memory=None, token="secret")
    with pytest.raises(stoker.VersionMismatch) as caught:
        ray_ranks.check_versions(plan)
    for named in (plan.ray, plan.python, ray.__version__, here):
        assert named in str(caught.value)
    assert "secret" not in repr(plan)


def test_a_token_is_read_for_one_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    authority: Any = ray_driver.Authority("ab" * 32)
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("token", "ab" * 32)
    authority.leave()
    assert (os.environ["RAY_AUTH_MODE"], os.environ.get("RAY_AUTH_TOKEN")) == ("disabled", None)
