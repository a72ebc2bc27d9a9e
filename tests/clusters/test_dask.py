"""Dask clusters out of gangs: real ones, with what may go wrong under them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import stoker
from stoker.clusters import dask_ranks, gang_call
from stoker.core import intake, settling
from tests import leftovers
from tests.clusters import work
from tests.faults.running import PersistentServer, Program, by_role
from tests.waiting import wait_until

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
HOLDS = Path(__file__).parent / "programs" / "holds_dask.py"


def test_tasks_run_in_all_workers_and_nothing_is_left(runtime_dir: Path, no_files_left: Path) -> None:
    with stoker.clusters.dask(workers=2, cpu=0.5, memory="1GiB", threads=2, env={"COLOUR": "green"}) as client:
        assert isinstance(client, distributed.Client)
        assert client.gather(client.map(work.square, range(20))) == [x * x for x in range(20)]
        assert set(client.run(os.getenv, "COLOUR").values()) == {"green"}
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert sorted(worker["name"] for worker in workers) == ["rank-0", "rank-1"]
        assert {worker["nthreads"] for worker in workers} == {2}
        assert {worker["memory_limit"] for worker in workers} == {768 << 20}
        assert any(no_files_left.iterdir())
    wait_until(lambda: not leftovers.of(runtime_dir), timeout=20, message="the program's own server has ended")


def test_a_stranger_on_the_network_is_turned_away() -> None:
    with stoker.clusters.dask(workers=1, cpu=0.5) as client:
        address = client.scheduler.address
        assert address.startswith("tls://")
        other = distributed.security.Security.temporary()
        for place, key in ((address, other), (address.replace("tls://", "tcp://"), None)):
            with pytest.raises(OSError):  # in one of several words
                distributed.Client(place, security=key, timeout=1)
        assert client.submit(work.square, 3).result() == 9


def test_a_task_that_takes_its_process_with_it_is_run_again(tmp_path: Path) -> None:
    with stoker.clusters.dask(workers=1, cpu=0.5) as client:
        assert client.submit(work.dies_once, str(tmp_path / "mark")).result(timeout=60) == "alive"


# A client of Dask's that tries to connect again leaves the last socket that it tried to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("no_semaphores_left")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_cluster_and_is_named(rank: int, tmp_path: Path) -> None:
    named = pytest.raises(stoker.WorkerLost, match=rf"rank {rank} of 2: killed by signal 9")
    with named, stoker.clusters.dask(workers=2, cpu=0.5) as client:
        parents = client.run(work.parent)
        names = {a: w["name"] for a, w in client.scheduler_info(n_workers=-1)["workers"].items()}
        (pid,) = [pid for address, pid in parents.items() if names[address] == f"rank-{rank}"]
        task = client.submit(work.waits, str(tmp_path / "began"))
        wait_until((tmp_path / "began").exists, message="a task runs")
        os.kill(pid, signal.SIGKILL)
        task.result(timeout=60)


def test_a_cluster_that_is_shut_down_by_its_client_is_closed_without_an_error() -> None:
    client: Any = stoker.clusters.dask(workers=1, cpu=0.5)
    client.shutdown()
    client.close()


def test_more_workers_than_the_machine_has_room_for() -> None:
    with pytest.raises(stoker.Unschedulable, match="50 ranks with 1 CPU each, of which 4 fit"):
        stoker.clusters.dask(workers=50)


def test_an_environment_that_cannot_be_built() -> None:
    image = stoker.Image.python().pip_install("stoker-has-no-such-package-0")
    with pytest.raises(stoker.ImageBuildError, match="stoker-has-no-such-package-0"):
        stoker.clusters.dask(workers=1, image=image)


def test_an_image_without_dask_is_told_what_to_install() -> None:
    with pytest.raises(stoker.InvalidRequest, match=rf"no distributed.*distributed=={distributed.__version__}"):
        stoker.clusters.dask(workers=1, cpu=0.5, image=stoker.Image.python())


def test_a_cluster_that_is_not_there_in_time() -> None:
    with pytest.raises(stoker.StartupError, match="Dask cluster was not there in time"):
        stoker.clusters.dask(workers=1, cpu=0.5, timeout=0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"workers": 0}, "workers=0"), ({"threads": 0}, "threads=0"), ({"cpu": -1}, "cpu=-1"), ({"timeout": "x"}, "'x'")],
)
def test_malformed_options_are_refused_before_anything_starts(given: dict[str, Any], message: str) -> None:
    with pytest.raises(stoker.InvalidRequest, match=message):
        stoker.clusters.dask(**given)


def test_a_caller_without_dask_or_cryptography_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(stoker.InvalidRequest, match="pip install 'cryptography'"):
        stoker.clusters.dask()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(stoker.InvalidRequest, match="pip install 'distributed' 'cryptography'"):
        stoker.clusters.dask()


@pytest.mark.parametrize(("version", "python"), [("2020.1.0", ""), ("", "3.9")])
def test_versions_that_differ_are_both_named(version: str, python: str) -> None:
    here, mine = f"{sys.version_info[0]}.{sys.version_info[1]}", distributed.__version__
    plan = dask_ranks.DaskPlan(version or mine, python or here, 1, None, certificate="", key="")
    with pytest.raises(stoker.VersionMismatch) as caught:
        dask_ranks.check_versions(plan)
    for named in (plan.distributed, plan.python, mine, here):
        assert named in str(caught.value)


def test_in_a_worker_it_is_the_image_that_lacks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang_call, "worker_identity", lambda: object())
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(stoker.InvalidRequest, match=r'\.pip_install\("distributed", "cryptography"\)'):
        stoker.clusters.dask()


def test_what_errors_advise_is_what_a_cluster_takes() -> None:
    """Else what is replaced in them would be somebody else's words."""
    assert gang_call.OF_GANGS[0] == intake.GANG_OPTIONS and gang_call.OF_LOSSES == settling.MORE_LOSSES
    with pytest.raises(stoker.Unschedulable, match="with workers=, cpu= or memory="):
        stoker.clusters.dask(workers=9000)


def test_a_name_that_is_none_is_told_with_the_nearest() -> None:
    with pytest.raises(
        stoker.InvalidOption, match=r"dask\(workerz=…\): there is no such argument. Did you mean 'workers'"
    ):
        stoker.clusters.dask(workerz=2)  # type: ignore[call-arg]
    with pytest.raises(stoker.InvalidOption, match=r"Gang\(ranks=…\): there is no such argument. It takes: size"):
        stoker.Gang(ranks=4)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Did you mean 'max_retries'"):
        stoker.Retries(max_retry=4)  # type: ignore[call-arg]


def test_a_cluster_that_takes_longer_than_it_may_names_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.clusters.gang_call.socket.create_connection", _refuse)
    with pytest.raises(stoker.StartupError, match=r"not there in time: .*Give it a longer timeout="):
        stoker.clusters.dask(workers=1, cpu=0.5, timeout="8s")


def test_a_scheduler_out_of_reach_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang_call, "REACH_SECONDS", 0.5)
    monkeypatch.setattr("stoker.clusters.gang_call.socket.create_connection", _refuse)
    with pytest.raises(stoker.ConnectionFailed, match="could not be reached from this machine"):
        stoker.clusters.dask(workers=1, cpu=0.5)


def _refuse(*_: object, **__: object) -> None:
    raise ConnectionRefusedError(111, "Connection refused")


def test_the_key_is_in_no_repr() -> None:
    assert "secret" not in repr(dask_ranks.DaskPlan("1", "3.11", 1, None, certificate="secret", key="secret"))


app = stoker.App("clusters-work")


@app.function(cpu=1)
def in_a_function(n: int) -> int:
    with stoker.clusters.dask(workers=2, cpu=0.5) as client:
        return int(client.submit(sum, client.map(work.square, range(n))).result())


def test_a_function_has_a_cluster_of_its_own() -> None:
    with app.run():
        assert in_a_function.remote(10) == 285


def test_two_clusters_at_once() -> None:
    with stoker.clusters.dask(workers=1, cpu=0.5) as one, stoker.clusters.dask(workers=2, cpu=0.5) as other:
        assert one.scheduler.address != other.scheduler.address
        assert (len(one.ncores()), len(other.ncores())) == (1, 2)
        assert one.submit(work.square, 2).result() + other.submit(work.square, 3).result() == 13


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("number", "persistent"),
    [(0, False), (signal.SIGINT, False), (signal.SIGKILL, False), (signal.SIGTERM, True), (signal.SIGKILL, True)],
)
def test_however_its_program_ends_nothing_is_left(
    number: int, persistent: bool, own_home: Path, runtime_dir: Path, no_files_left: Path
) -> None:
    server = PersistentServer() if persistent else None
    if server is not None:
        assert "error" not in server.start()
    program = Program(HOLDS, *(["end"] if number == 0 else []), env={"PYTHONPATH": str(HOLDS.parents[3])})
    wait_until(lambda: "ready 49" in program.output or program.process.poll(), timeout=60, message="it is up")
    if number:
        program.process.send_signal(number)
    status = program.wait(40)
    assert status == -number, program.output
    assert "scratch /" in program.output
    wait_until(
        lambda: not by_role(runtime_dir).get("worker") and not any(no_files_left.glob("*/*")),
        timeout=30,
        message="its ranks are gone, and their files",
    )
    if server is not None:
        assert server.stop() == 0
    wait_until(lambda: not leftovers.of(runtime_dir), timeout=30, message="everything is gone")
