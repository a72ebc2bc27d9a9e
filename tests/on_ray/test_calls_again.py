from __future__ import annotations

import pytest

from tests.nodes import test_calls
from tests.on_ray.again import again
from tests.on_ray.running import OnRay

PROXY = "a proxy is put before one node: a Ray has all nodes reach the server at one address"
WITHOUT = {
    "test_a_result_that_ten_calls_on_another_node_take_crosses_once": PROXY,
    "test_a_payload_that_arrives_damaged_is_fetched_again": PROXY,
    "test_a_payload_that_arrives_damaged_each_time_is_an_error": PROXY,
}

globals().update(again(test_calls, without=WITHOUT))


@pytest.fixture
def nodes(ray: OnRay) -> OnRay:
    return ray
