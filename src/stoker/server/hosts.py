"""Which machine a worker is on, or was, by the name that people know it by."""

from __future__ import annotations

from collections import OrderedDict

from stoker.engine.base import Engine, called

WORKERS_KEPT = 10_000  # that are gone; calls of earlier ones are shown without their machine


class Hosts:
    """See the module. With the local engine, which has one machine, nothing is named."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._names: dict[str, str] = {}
        self._workers: OrderedDict[str, str] = OrderedDict()

    def of_node(self, node: str) -> str:
        """Return what a node is called, also when it is gone."""
        if self._engine.name == "local":
            return ""
        # Of those that are there now: a machine that was started again is another node, of the same name.
        hosts = {info.node: info.labels.get("host", "") for info in self._engine.nodes()}
        self._names.update({here: called(here, hosts) for here in hosts})
        return self._names.get(node) or called(node, {})

    def named(self, node: str) -> str:
        """Return what a node is called in a sentence, whatever the engine."""
        return self.of_node(node) or node

    def of_worker(self, worker: str) -> str:
        return self._workers.get(worker, "")

    def note(self, worker: str, node: str) -> None:
        """Remember where a worker is, also when it is gone."""
        if host := self.of_node(node):
            self._workers[worker] = host
            if len(self._workers) > WORKERS_KEPT:
                self._workers.popitem(last=False)
