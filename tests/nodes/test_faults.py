"""What happens to accepted calls when nodes, agents, the server and the network between them fail."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import stoker
from tests.nodes.running import Nodes
from tests.nodes.work import app, make, square, tells, where
from tests.tcp_proxy import CuttingProxy
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

Began = list[tuple[str, int]]


class Gate:
    """Calls of `tells` that wait until the test lets them go."""

    def __init__(self, tmp_path: Path, *, name: str = "calls") -> None:
        self.file, self.gate = tmp_path / f"{name}.began", tmp_path / f"{name}.gate"

    def spawn(self, count: int) -> list[stoker.Call[str]]:
        return [tells.spawn(str(self.file), str(self.gate)) for _ in range(count)]

    def began(self) -> Began:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def wait(self, count: int, *, timeout: float = 30.0) -> Began:
        wait_until(lambda: len(self.began()) >= count, timeout=timeout, message=f"{count} runs: {self.began()}")
        return self.began()

    def open(self) -> None:
        self.gate.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_a_node_that_dies_under_load(nodes: Nodes, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(4)
        gate.wait(4)
        with ThreadPoolExecutor() as threads:
            found = threads.submit(lambda: list(square.map(range(500))))
            nodes.kill("n2")
            nodes.change(n1={"cpus": 2}, n3={"cpus": 2})
            assert found.result(timeout=60) == [x * x for x in range(500)]
        assert len(gate.wait(6)) == 6
        gate.open()
        assert [call.result(timeout=60) for call in calls].count("n2") == 0
        assert any("n2" in str(entry) for call in calls for entry in call.timeline())


def test_an_agent_that_is_killed_is_replaced_and_its_workers_with_it(nodes: Nodes, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(4)
        gate.wait(4)
        before = nodes.agent("n1")
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: nodes.agent("n1") != before, timeout=30, message="another agent")
        gate.open()
        assert sorted({call.result(timeout=60) for call in calls}) in (["n1", "n2"], ["n2"])


def test_the_server_restarts_while_workers_on_two_nodes_run(nodes: Nodes, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(4)
        began = gate.wait(4)
        held = nodes.groups()
        nodes.server.kill()
        gate.open()  # they finish while nobody is there, and hand over what they have
        nodes.start()
        assert sorted(call.result(timeout=60) for call in calls) == sorted(node for node, _ in began)
        assert gate.began() == began, "nothing ran twice"
        assert nodes.groups() == held
        assert square.remote(5) == 25


def test_a_big_result_outlives_a_restart_of_the_server(nodes: Nodes) -> None:
    with app.run():
        calls = [make.spawn(16) for _ in range(4)]
        nodes.server.kill()
        nodes.start()
        assert {call.result(timeout=60).nbytes for call in calls} == {16 << 20}


def test_a_cut_that_is_shorter_than_the_lease_costs_nothing(nodes: Nodes, gate: Gate) -> None:
    with CuttingProxy(nodes.port) as proxy, app.run():
        nodes.behind(proxy.port, n1={"cpus": 2}, n2={"cpus": 2})
        wait_until(lambda: "n2" in set(where.map([0.1] * 8)), timeout=30, message="n2 is back")
        calls = gate.spawn(4)
        began = gate.wait(4)
        proxy.refusing = True
        proxy.cut()
        gate.open()
        proxy.refusing = False
        assert sorted(call.result(timeout=60) for call in calls) == sorted(node for node, _ in began)
        assert gate.began() == began, "nothing ran twice"


def test_a_node_whose_clock_is_an_hour_off(nodes: Nodes, root: Path) -> None:
    shift = "import time\n_time = time.time\ntime.time = lambda: _time() + 3600\n"
    place = root / "clock"
    place.mkdir()
    (place / "sitecustomize.py").write_text(shift)
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    with app.run():
        nodes.change(n2={"cpus": 2, "env": {"PYTHONPATH": path}})
        nodes.kill("n2")
        wait_until(lambda: set(where.map([0.1] * 2)) == {"n2"}, timeout=30, message="n2 is back")
        assert list(square.map(range(100))) == [x * x for x in range(100)]
        call = square.spawn(7)
        assert call.result(timeout=30) == 49
        times = [entry.at for entry in call.timeline()]
        assert times == sorted(times) and times[-1] - times[0] < 60


def test_a_node_that_is_taken_away_drains_first(nodes: Nodes, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(4)
        began = gate.wait(4)
        nodes.change(n1={"cpus": 2}, n2={"cpus": 2, "draining": 4e9})
        gate.open()
        assert sorted(call.result(timeout=60) for call in calls) == sorted(node for node, _ in began)
        assert gate.began() == began
        assert set(where.map([0.05] * 20)) == {"n1"}


def test_what_waits_for_room_is_told_and_a_new_node_takes_it(nodes: Nodes, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(8)
        gate.wait(4)
        wait_until(lambda: nodes.read("demand.json"), message="the demand")
        nodes.change(n1={"cpus": 2}, n2={"cpus": 2}, n3={"cpus": 4})
        gate.wait(8)
        gate.open()
        assert {call.result(timeout=60) for call in calls} == {"n1", "n2", "n3"}
        wait_until(lambda: not nodes.read("demand.json"), message="no demand any more")
