"""The GPUs that Ray has assigned are the ones that a worker sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.on_ray.gate import Gate
from tests.on_ray.running import OnRay
from tests.on_ray.work import app, sees

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def ray(two_nodes: OnRay) -> Iterator[OnRay]:
    """Have a server whose workers hold a GPU for each core."""
    with two_nodes.instead(module="tests.on_ray.gpu_server") as found:
        yield found


def test_workers_see_the_devices_of_their_own(ray: OnRay, gate: Gate) -> None:
    whole, halves, both = sees, sees.with_options(cpu=0.5), sees.with_options(cpu=2)
    with app.run():
        calls = [whole.spawn(*gate.files) for _ in range(2)] + [halves.spawn(*gate.files) for _ in range(4)]
        gate.wait(6)
        gate.open()
        found = [call.result(timeout=60) for call in calls]
        assert len(set(found[:2])) == 2, "no two have the same"
        assert all(devices in {"0", "1"} for _, devices in found)
        assert sorted(found.count(one) for one in set(found[2:])) == [2, 2], "two halves of each"
        assert not set(found[:2]) & set(found[2:])
        assert both.remote(*gate.files)[1] == "0,1"
