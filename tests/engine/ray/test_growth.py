"""When a cluster is taken to have more nodes than it has."""

from __future__ import annotations

import pytest

from stoker.engine.ray.growth import RETURN_SECONDS, adds_nodes_of, growth
from stoker.types import Growth

NODE = "node_0a7dbccd14536fa3059c65aed1c7ee657e08a7b4cf992ff440abaa10"


@pytest.mark.parametrize(
    ("kinds", "adds"),
    [
        ([], None),
        ([NODE], False),
        ([NODE, NODE.replace("0a", "1b")], False),
        ([NODE, "ray.worker.default"], True),
        (["head-group", "workers"], True),
        (["node_small"], True),
    ],
)
def test_an_autoscaler_that_only_looks_on_has_a_kind_for_each_node(kinds: list[str], adds: bool | None) -> None:
    assert adds_nodes_of(kinds) is adds


@pytest.mark.parametrize(
    ("adds_nodes", "lost_at", "arriving", "expected"),
    [
        (False, None, [], Growth.BY_HAND),
        (False, None, [False, False], Growth.BY_HAND),
        (True, None, [False], Growth.BY_ITSELF),
        (False, None, [False, True], Growth.BY_ITSELF),
        (False, 1000.0 - RETURN_SECONDS + 1.0, [False], Growth.BY_ITSELF),
        (False, 1000.0 - RETURN_SECONDS, [False], Growth.BY_HAND),
    ],
)
def test_nodes_come_by_themselves(
    adds_nodes: bool, lost_at: float | None, arriving: list[bool], expected: Growth
) -> None:
    assert growth(adds_nodes=adds_nodes, lost_at=lost_at, arriving=arriving, now=1000.0) is expected
