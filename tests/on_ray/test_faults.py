"""Parts of a Ray die, are taken away, or come: what was accepted is settled, once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stoker.types import Growth
from tests.on_ray.gate import Gate
from tests.on_ray.running import OnRay, check_settled_once, on_ray
from tests.on_ray.work import app, big, bigger, square, where
from tests.waiting import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

FAR = 4_000_000_000.0


@pytest.fixture(scope="module")
def breakable() -> Iterator[OnRay]:
    """Have a Ray whose head may be restarted; each test leaves it with two nodes."""
    with on_ray(keeps=True) as found:
        yield found


@pytest.fixture
def ray(breakable: OnRay) -> OnRay:
    return breakable


def test_a_node_that_is_killed_under_load(ray: OnRay, gate: Gate) -> None:
    node = ray.add_node()
    ray.wait_for_nodes(3)
    with app.run():
        calls = gate.spawn(6)
        began = gate.wait(6)
        assert sorted(where for where, _ in began) == sorted(2 * ray.node_names())
        with ThreadPoolExecutor() as threads:
            found = threads.submit(lambda: list(square.map(range(300))))
            ray.cluster.kill_node(node)
            ray.wait_for_nodes(2)
            gate.open()
            assert found.result(timeout=120) == [x * x for x in range(300)]
        assert {call.result(timeout=90) for call in calls} == set(ray.node_names())
        told = [" ".join(entry.detail for entry in call.timeline()) for call in calls]
        assert len([text for text in told if node.id[:12] in text]) == 2, told
        lost = next(call for call, text in zip(calls, told, strict=True) if node.id[:12] in text)
        assert node.id[:12] in _stoker("calls", "show", lost.id, "--json")
        assert len(gate.began) == 8
        check_settled_once(ray.home, {call.id for call in calls})


def test_the_server_is_killed_and_started_again_while_workers_run(ray: OnRay, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(4)
        began = gate.wait(4)
        ray.server.kill()
        gate.open()  # they finish while nobody is there, and hand over what they have
        ray.start()
        assert sorted(call.result(timeout=60) for call in calls) == sorted(node for node, _ in began)
        assert gate.began == began, "nothing ran twice"
        assert square.remote(5) == 25
        check_settled_once(ray.home, {call.id for call in calls})


def test_a_node_that_ray_drains_finishes_and_gets_nothing_more(ray: OnRay, gate: Gate) -> None:
    node = ray.add_node()
    ray.wait_for_nodes(3)
    name = ray.names[node.id]
    with app.run():
        calls = gate.spawn(6)
        began = gate.wait(6)
        assert name in {where for where, _ in began}
        ray.cluster.drain_node(node, until=FAR)
        wait_until(lambda: ray.is_draining(node), timeout=30, message="the server knows")
        gate.open()
        assert sorted(call.result(timeout=60) for call in calls) == sorted(where for where, _ in began)
        assert gate.began == began
        assert name not in set(where.map([0.05] * 30))
    if node in ray.cluster.nodes:
        ray.cluster.kill_node(node)


def test_the_heads_memory_of_the_cluster_is_killed_and_started_again(ray: OnRay, gate: Gate, tmp_path: Path) -> None:
    later = Gate(tmp_path / "later")
    with app.run():
        calls = gate.spawn(2)
        began = gate.wait(2)
        assert square.remote(3) == 9  # it has a worker: another one cannot be had while the head is away
        agents = ray.agents()
        with ray.cluster.without_head_service():
            gate.open()
            assert sorted(call.result(timeout=30) for call in calls) == sorted(node for node, _ in began)
            squares = [square.spawn(x) for x in range(50)]
            assert [call.result(timeout=60) for call in squares] == [x * x for x in range(50)]
            more = later.spawn(4)  # for which there are not enough workers
            wait_until(lambda: "Ray cluster does not answer" in ray.why(more[3].id), timeout=50, message="it says why")
        # More workers can be had again than there were: the cluster gives room.
        assert sorted(node for node, _ in later.wait(4, timeout=90)) == sorted(2 * ray.node_names())
        later.open()
        assert len({call.result(timeout=60) for call in more}) == 2
        assert gate.began == began
        assert ray.agents() == agents, "none was started beside one that ran"
        check_settled_once(ray.home, {call.id for call in [*calls, *squares, *more]})
    wait_until(lambda: not ray.cluster.groups(), timeout=30, message="all room is given back")


def test_what_no_node_can_hold_waits_where_ray_adds_nodes(ray: OnRay) -> None:
    ray.start_autoscaler("n-larger", cpus=8)
    wait_until(lambda: ray.status()["growth"] == Growth.BY_ITSELF, timeout=60, message="the server knows")
    with bigger.run():
        call = big.spawn()
        wait_until(
            lambda: "a node to be added: it asks for 8 CPUs" in ray.why(call.id), timeout=20, message="it says why"
        )
        assert call.result(timeout=90) == "n-larger"
    ray.cluster.kill_autoscaler()
    ray.wait_for_nodes(2)


def test_a_head_that_forgets_everything_takes_its_nodes_with_it(ray: OnRay, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(4)
        began = gate.wait(4)
        before = {name for name, _ in began}
        ray.cluster.kill_head()
        wait_until(lambda: "does not answer" in ray.server.log.read_text(), timeout=60, message="the server noticed")
        waiting = [square.spawn(x) for x in range(50)]  # accepted while there is no Ray
        ray.add_node()
        ray.add_node()
        ray.wait_for_nodes(2)
        gate.wait(8, timeout=120)
        gate.open()
        assert not before & {call.result(timeout=60) for call in calls}
        assert [call.result(timeout=60) for call in waiting] == [x * x for x in range(50)]
        assert len(gate.began) == 8
        check_settled_once(ray.home, {call.id for call in [*calls, *waiting]})


def _stoker(*words: str) -> str:
    command = [sys.executable, "-m", "stoker.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
