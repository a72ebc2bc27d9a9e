"""Which machine a worker is on, or was, by the name that people know it by."""

from __future__ import annotations

from collections import OrderedDict

from stoker.engine.base import Engine

WORKERS_KEPT = 10_000  # that are gone; calls of earlier ones are shown without their machine
SHORT_CHARACTERS = 12  # of an id: enough to tell nodes apart


class Hosts:
    """See the module. With an engine that has one machine only, nothing is named."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._nodes: dict[str, str] = {}
        self._workers: OrderedDict[str, str] = OrderedDict()

    def of_node(self, node: str) -> str:
        """Return the name of a node's machine; of one that never said it the beginning of its id."""
        if self._engine.name == "local":
            return ""
        for info in self._engine.nodes():
            self._nodes[info.node] = info.labels.get("host", "")
        return self._nodes.get(node) or node[:SHORT_CHARACTERS]

    def of_worker(self, worker: str) -> str:
        return self._workers.get(worker, "")

    def note(self, worker: str, node: str) -> None:
        """Remember where a worker is, also when it is gone."""
        if host := self.of_node(node):
            self._workers[worker] = host
            if len(self._workers) > WORKERS_KEPT:
                self._workers.popitem(last=False)
