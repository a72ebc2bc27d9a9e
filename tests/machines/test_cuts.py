"""Cables that are cut: between the server and a node, and between a program and the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import stoker
from stoker.client import session as sessions
from tests.machines.clusters import Cluster
from tests.machines.running import Machine, machines
from tests.machines.work import app, ranks, tells, ticks, where
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

CUT_SECONDS = 5.0
TICKS = 200


@contextmanager
def cluster_of(
    *nodes: str, place: Path, monkeypatch: pytest.MonkeyPatch, cpus: int = 2, lease: str = "30s"
) -> Iterator[Cluster]:
    """Have a cluster of these nodes, and this process as a program on a machine of its own."""
    with machines("head", "n1", "n2", "n3", "laptop", shared=[place], own_pids=False) as made:
        cluster = Cluster(made, place, lease=lease)
        cluster.have(*nodes, cpus=cpus)
        cluster.start()
        cluster.wait_for(*nodes)
        with made["laptop"].network():
            cluster.connect(monkeypatch)
            try:
                with app.run():
                    yield cluster
            finally:
                sessions.close()


def cut_for(machine: Machine, seconds: float) -> None:
    """Cut a machine's cable for so long: the length of the outage is what is tried."""
    until = time.monotonic() + seconds
    machine.cut()
    wait_until(lambda: time.monotonic() > until, timeout=2 * seconds)
    machine.mend()


class Work:
    """Calls of each kind on all cores of a cluster, which wait for the gate: eight in all."""

    def __init__(self, cluster: Cluster, threads: ThreadPoolExecutor) -> None:
        self._cluster = cluster
        place = str(cluster.place)
        self._detached = [tells.spawn(place) for _ in range(4)]
        self._attached = threads.submit(lambda: list(tells.map([place] * 2)))
        self._streams = [threads.submit(lambda: list(ticks.stream(place, TICKS))) for _ in range(2)]
        self.began = cluster.wait_for_lines("began", 8)

    def check(self) -> None:
        """All have ended well, where they began, and none has begun twice."""
        found = [call.result(timeout=60) for call in self._detached] + self._attached.result(60)
        for stream in self._streams:
            assert stream.result(60) == list(range(TICKS))
        assert len(found) == 6 and set(found) <= set(self.began)
        assert self._cluster.lines("began") == self.began, "nothing ran twice"


def test_a_node_that_is_cut_off_for_less_than_its_lease(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        cluster_of("n1", "n2", place=shared, cpus=4, monkeypatch=monkeypatch) as cluster,
        ThreadPoolExecutor() as threads,
    ):
        work = Work(cluster, threads)
        assert sorted(work.began) == ["n1"] * 4 + ["n2"] * 4
        cutting = threads.submit(cut_for, cluster["n2"], CUT_SECONDS)
        cluster.open_gate()  # they end while n2 can tell nobody
        cutting.result()
        work.check()
        assert cluster.up() == {"n1", "n2"}


def test_a_program_that_is_cut_off(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        cluster_of("n1", "n2", place=shared, cpus=4, monkeypatch=monkeypatch) as cluster,
        ThreadPoolExecutor() as threads,
    ):
        work = Work(cluster, threads)
        cutting = threads.submit(cut_for, cluster["laptop"], CUT_SECONDS)
        cluster.open_gate()  # they end while the program cannot be told
        cutting.result()
        work.check()
        assert where.remote(0.0) in {"n1", "n2"}


def test_a_node_that_is_cut_off_for_longer_than_its_lease(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of("n1", "n2", place=shared, lease="5s", monkeypatch=monkeypatch) as cluster:
        calls = [tells.spawn(str(shared)) for _ in range(4)]
        assert sorted(cluster.wait_for_lines("began", 4)) == ["n1", "n1", "n2", "n2"]
        cluster["n2"].cut()
        cluster.have("n1", "n2", "n3")
        assert cluster.wait_for_lines("began", 6)[4:] == ["n3", "n3"]
        assert "nothing was heard of it for" in cluster.head.run("stoker", "server", "status").stdout
        cluster.open_gate()
        assert sorted(call.result(timeout=60) for call in calls) == ["n1", "n1", "n3", "n3"]
        cluster["n2"].mend()
        cluster.wait_for("n1", "n2", "n3")
        back_to_work("n2")
        assert len(cluster.lines("began")) == 6, "what came back was asked, and ran nothing again"
        shown = [cluster.head.run("stoker", "calls", "show", call.id).stdout for call in calls]
        assert [text.count("succeeded") for text in shown] == [2] * 4, "in its state, and once in its timeline"
        assert sum("nothing was heard of node n2 for 5 s" in " ".join(text.split()) for text in shown) == 2
        events = [[entry.event for entry in call.timeline()] for call in calls]
        assert (
            sorted(map(tuple, events))
            == [("queued", "running", "lost", "running", "succeeded")] * 2 + [("queued", "running", "succeeded")] * 2
        )


def alive(machine: Machine, pids: list[str]) -> list[str]:
    return [pid for pid in pids if machine.sees(Path("/proc") / pid / "exe")]


def back_to_work(node: str) -> None:
    wait_until(lambda: node in set(where.map([0.2] * 12)), timeout=60, message=f"{node} works again")


def test_a_gang_with_ranks_on_a_node_past_its_lease(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster_of("n1", "n2", place=shared, lease="5s", monkeypatch=monkeypatch) as cluster:
        call: stoker.Call[int] = ranks.spawn(str(shared))
        assert sorted(cluster.wait_for_lines("began", 4)) == ["n1", "n1", "n2", "n2"]
        wait_until(lambda: len(cluster.lines("ranks-n2")) == 2)
        cluster["n2"].cut()
        # They end by themselves there: nobody can tell them to.
        wait_until(lambda: not alive(cluster["n2"], cluster.lines("ranks-n2")), timeout=60, message="the ranks end")
        cluster.have("n1", "n2", "n3")
        assert sorted(cluster.wait_for_lines("began", 8)[4:]) == ["n1", "n1", "n3", "n3"]
        cluster["n2"].mend()
        cluster.wait_for("n1", "n2", "n3")
        cluster.open_gate()
        assert call.result(timeout=60) == 4
        assert sum("nothing was heard of node n2" in entry.detail for entry in call.timeline()) == 1
        assert len(cluster.lines("began")) == 8
        back_to_work("n2")
