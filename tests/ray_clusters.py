"""A Ray cluster of several nodes on this machine, for tests: real heads and real raylets, with made-up CPUs and GPUs.

It runs below a process of its own, which ends all of it when it is told to or when the tests are gone. Nothing of it is
shared with another Ray on this machine: ports, addresses and directories are its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 80 << 20
# A node that is killed is seen as dead within two seconds, in place of twenty.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}


@dataclass(frozen=True)
class RayNode:
    """A node of the cluster: its id, and the process of its raylet."""

    id: str
    raylet: int


class RayClusterProcess:
    """A running cluster. ``head`` is its first node."""

    def __init__(self, *, env: dict[str, str] | None = None) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short, for the paths of its sockets
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self._place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "RAY_TMPDIR": str(self._place), "PYTHONWARNINGS": "ignore", **(env or {})},
            text=True,
            start_new_session=True,
        )
        self.nodes: list[RayNode] = []
        self.address = ""

    @property
    def head(self) -> RayNode:
        return self.nodes[0]

    def add_node(
        self,
        *,
        cpus: float = 2,
        gpus: float = 0,
        resources: dict[str, float] | None = None,
        labels: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        object_store: int = OBJECT_STORE_BYTES,
    ) -> RayNode:
        """Start a node and return when it has joined; ``env`` is added to what its processes are started with."""
        wanted = {"num_cpus": cpus, "num_gpus": gpus, "resources": resources or {}, "labels": labels or {}}
        told = self._ask("add_node", options={**wanted, "object_store_memory": object_store}, env=env or {})
        self.address = told["address"]
        node = RayNode(told["node"], told["raylet"])
        self.nodes.append(node)
        return node

    def kill_node(self, node: RayNode) -> None:
        """Kill a node's raylet, which is all that holds it together."""
        self._ask("kill_node", node=node.id)
        self.nodes.remove(node)

    def drain_node(self, node: RayNode, *, until: float) -> None:
        """Have Ray move work off a node, which is to be taken away at this Unix time."""
        self._ask("drain_node", node=node.id, until=until)

    def kill_head(self) -> None:
        """Kill the head's processes; what is left of the cluster is of no use."""
        self._ask("kill_head")

    def stop(self) -> None:
        """End everything and remove its files."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._place, ignore_errors=True)

    def _ask(self, verb: str, **params: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb, **params}) + "\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # Ray prints as well
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise RuntimeError(f"Ray refused {verb}: {answer['error']}")
                return answer
        raise RuntimeError("the Ray cluster of the tests could not be started; its words are above")


@contextmanager
def two_nodes(
    *,
    cpus: tuple[float, float] = (4, 6),
    gpus: float = 2,
    env: dict[str, str] | None = None,
    object_store: int = OBJECT_STORE_BYTES,
) -> Iterator[RayClusterProcess]:
    """Have a cluster of a head and a node with GPUs, that many CPUs each."""
    cluster = RayClusterProcess(env=env)
    try:
        cluster.add_node(cpus=cpus[0], object_store=object_store)
        cluster.add_node(cpus=cpus[1], gpus=gpus, object_store=object_store)
        yield cluster
    finally:
        cluster.stop()


# What runs in the cluster's own process.


class _Keeper:
    def __init__(self, place: Path) -> None:
        from ray.cluster_utils import Cluster

        (place / "ray").mkdir()

        self._place = place
        self._cluster = Cluster(shutdown_at_exit=False)
        self._nodes: dict[str, Any] = {}

    def add_node(self, request: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {**request["options"], "temp_dir": str(self._place / "ray")}
        if not self._nodes:
            options |= {"_system_config": HEALTH, "include_dashboard": False, "include_log_monitor": False}
        before = dict(os.environ)
        os.environ.update(request["env"])
        try:
            node = self._cluster.add_node(**options)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self._nodes[node.node_id] = node
        raylet = node.all_processes["raylet"][0].process.pid
        return {"node": node.node_id, "raylet": raylet, "address": self._cluster.address}

    def kill_node(self, request: dict[str, Any]) -> dict[str, Any]:
        self._kill(self._nodes.pop(request["node"]), "raylet")
        return {}

    def drain_node(self, request: dict[str, Any]) -> dict[str, Any]:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        preemption = 2
        deadline = int(request["until"] * 1000)
        accepted, why = GcsClient(address=self._cluster.address).drain_node(
            request["node"], preemption, "for the tests", deadline
        )
        return {} if accepted else {"error": why}

    def kill_head(self, request: dict[str, Any]) -> dict[str, Any]:
        head: Any = self._cluster.head_node
        for kind in list(head.all_processes):
            self._kill(head, kind)
        return {}

    @staticmethod
    def _kill(node: Any, kind: str) -> None:
        for info in node.all_processes[kind]:
            info.process.kill()
            info.process.wait()  # a zombie counts as alive for the workers below it


def _descendants() -> list[int]:
    from stoker.engine.local import processes

    return processes.descendants([os.getpid()])


def _end(place: Path) -> None:
    from stoker.engine.local import processes

    processes.kill_all(_descendants)
    shutil.rmtree(place, ignore_errors=True)
    os._exit(0)


def _main(place: Path) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what a killed raylet leaves behind is ours to end
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda number, frame: _end(place))
    try:
        keeper = _Keeper(place)
        for line in sys.stdin:
            request = json.loads(line)
            answers.write(json.dumps(getattr(keeper, request["verb"])(request)) + "\n")
            answers.flush()
    except Exception:
        traceback.print_exc()
    finally:
        _end(place)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
