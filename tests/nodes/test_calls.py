"""Calls on two nodes that share nothing with the server but a connection."""

from __future__ import annotations

import numpy as np
import pytest

import stoker
from tests.nodes.running import Nodes
from tests.nodes.work import app, arrays, count, fails, make, nested, node, ranks, square, takes, total, where
from tests.tcp_proxy import CuttingProxy
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


def test_calls_run_on_both_nodes(nodes: Nodes) -> None:
    with app.run():
        assert square.remote(3) == 9
        assert list(square.map(range(200))) == [x * x for x in range(200)]
        # A node whose workers take longer to start than the rest of the map would, as on a busy machine, gets none.
        wait_until(lambda: set(where.map([0.3] * 8)) == {"n1", "n2"}, timeout=60, message="workers on both nodes")
        with pytest.raises(ValueError, match="no 7"):
            fails.remote(7)


def test_streams_and_nested_calls(nodes: Nodes) -> None:
    with app.run():
        assert list(count.stream(500)) == list(range(500))
        assert nested.remote(20) == [x * x for x in range(20)]


def test_big_payloads_both_ways(nodes: Nodes) -> None:
    big = np.arange(4 << 20, dtype=np.float64)
    with app.run():
        assert total.remote(big) == float(big.sum())
        made = make.remote(32)
        assert made.nbytes == 32 << 20 and made[-1] == made.size - 1
        assert [float(item[0]) for item in arrays.stream(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_result_that_ten_calls_on_another_node_take_crosses_once(nodes: Nodes) -> None:
    expected = float(np.arange(32 << 17, dtype=np.float64).sum())
    with CuttingProxy(nodes.port) as proxy, app.run():
        nodes.behind(proxy.port, n1={"cpus": 1}, n2={"cpus": 2})
        made = make.spawn(32)
        found = list(takes.map([made] * 10))
        assert set(found) == {("n2", expected)}
        assert 32 << 20 <= proxy.answered < 40 << 20


def test_a_payload_that_arrives_damaged_is_fetched_again(nodes: Nodes) -> None:
    big = np.arange(4 << 20, dtype=np.float64)
    with CuttingProxy(nodes.port) as proxy, app.run():
        nodes.behind(proxy.port, n2={"cpus": 2})
        assert total.remote(np.ones(2)) == 2.0
        proxy.spoil = 2
        assert total.remote(big) == float(big.sum())
        assert proxy.spoil == 0
        log = (nodes.root / "n2" / "state" / "agent.log").read_text()
        assert "arrived damaged" in log


def test_a_payload_that_arrives_damaged_each_time_is_an_error(nodes: Nodes) -> None:
    with CuttingProxy(nodes.port) as proxy, app.run():
        nodes.behind(proxy.port, n2={"cpus": 2})
        assert total.remote(np.ones(2)) == 2.0
        proxy.spoil = 1 << 30
        with pytest.raises(stoker.StokerError, match=r"arrived damaged.*node n2"):
            total.remote(np.arange(4 << 20, dtype=np.float64))
        proxy.spoil = 0
        assert total.remote(np.ones(1 << 18)) == float(1 << 18)


def test_a_gang_over_both_nodes(nodes: Nodes) -> None:
    with app.run():
        assert len(ranks.remote()) == 4


@pytest.mark.slow
def test_a_dask_cluster_over_both_nodes(nodes: Nodes) -> None:
    with stoker.clusters.dask(workers=4, cpu=1) as client:
        assert set(client.run(node).values()) == {"n1", "n2"}
        assert client.submit(sum, client.map(abs, range(-10, 0))).result() == 55
