"""What the machines of workers are called."""

from __future__ import annotations

from stoker.engine.base import NodeInfo
from stoker.engine.fake import FakeEngine
from stoker.server.hosts import Hosts


class Named(FakeEngine):
    """An engine whose nodes are these, by name of their machine."""

    def __init__(self, **hosts: str) -> None:
        super().__init__()
        self.hosts = hosts

    def nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node, 1.0, 0, 1.0, 0, labels={"host": host}) for node, host in self.hosts.items()]


def test_a_machine_that_was_started_again_keeps_its_name_and_so_does_what_ran_there_before() -> None:
    engine = Named(a123456789abcdef="head", b123456789abcdef="gpu-1")
    hosts = Hosts(engine)
    hosts.note("w1", "a123456789abcdef")
    engine.hosts = {"b123456789abcdef": "gpu-1", "c123456789abcdef": "head"}
    hosts.note("w2", "c123456789abcdef")
    assert hosts.of_worker("w1") == hosts.of_worker("w2") == "head"
    assert hosts.of_node("a123456789abcdef") == "head"
    assert hosts.of_node("d123456789abcdef") == "d123456789ab"
    assert hosts.of_worker("w3") == ""


def test_machines_of_one_name_are_told_apart() -> None:
    hosts = Hosts(Named(a123456789abcdef="node", b123456789abcdef="node"))
    assert hosts.of_node("a123456789abcdef") == "a123456789ab"
