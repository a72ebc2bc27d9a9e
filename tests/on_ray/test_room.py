"""Calls that ask for more than a Ray has: refused with what would fit, or met by a node that is added."""

from __future__ import annotations

import contextlib

import pytest

import stoker
from stoker.types import Growth
from tests.faults import gang_work
from tests.on_ray.gate import Gate
from tests.on_ray.running import OnRay
from tests.on_ray.work import app, bigger
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)


def test_what_no_node_can_hold_is_refused_and_says_what_fits(ray: OnRay) -> None:
    wait_until(lambda: ray.status()["growth"] == Growth.BY_HAND, timeout=60, message="the server knows that none comes")
    with gang_work.app.run(), pytest.raises(stoker.Unschedulable, match=r"50 ranks with 0\.5 CPU each, of which 8 fit"):
        gang_work.too_many.remote()
    with pytest.raises(stoker.Unschedulable, match=r"8 CPUs \(the largest node has 2\).*add a node"), bigger.run():
        pass


def test_what_waits_for_room_is_seen_by_ray_and_met_when_a_node_comes(ray: OnRay, gate: Gate) -> None:
    with app.run():
        calls = gate.spawn(6)
        gate.wait(4)
        wait_until(lambda: "PENDING" in ray.cluster.groups().values(), timeout=20, message="Ray's own demand")
        node = ray.add_node()
        with contextlib.ExitStack() as afterwards:
            afterwards.callback(ray.cluster.kill_node, node)
            began = gate.wait(6)
            assert {name for name, _ in began[4:]} == {ray.names[node.id]}
            wait_until(lambda: "PENDING" not in ray.cluster.groups().values(), timeout=20, message="no demand any more")
            gate.open()
            assert len([call.result(timeout=60) for call in calls]) == 6
    ray.wait_for_nodes(2)
