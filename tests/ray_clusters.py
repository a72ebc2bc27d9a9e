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
import socket
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

BUSY = {  # as a machine that runs other tests is
    "RAY_worker_niceness": "0",  # else what runs on nodes waits for all of them
    "RAY_gcs_server_port_wait_time_s": "40",
}
HEAD_TRIES = 2
LOG_CHARACTERS = 3000


@dataclass(frozen=True)
class RayNode:
    """A node of the cluster: its id, and the process of its raylet."""

    id: str
    raylet: int


class RayClusterProcess:
    """A running cluster. ``head`` is its first node.

    ``keeps``: the head writes down what it knows, in Ray's own RocksDB, so that it can be started again.
    """

    def __init__(self, *, env: dict[str, str] | None = None, keeps: bool = False) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short, for the paths of its sockets
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self._place), *(["keeps"] if keeps else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_unauthorized(), "RAY_TMPDIR": str(self._place), "PYTHONWARNINGS": "ignore", **BUSY, **(env or {})},
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

    def start_autoscaler(self, *, cpus: float, env: dict[str, str]) -> None:
        """Have Ray's own autoscaler, which adds one node of that size, with ``env``, where something waits for it."""
        self._ask("start_autoscaler", cpus=cpus, env=env)

    def kill_autoscaler(self) -> None:
        """Kill it with the node that it has added."""
        self._ask("kill_autoscaler")

    def kill_head(self) -> None:
        """Kill the head's processes, its node among them, and what it has kept: other nodes end as they notice.

        A node that is added afterwards is the head of another cluster at the same address.
        """
        self._ask("kill_head")
        self.nodes.clear()

    @contextmanager
    def without_head_service(self) -> Iterator[None]:
        """Kill what knows of the cluster, leave the head's node alone, and start it again afterwards."""
        self._ask("kill_head_service")
        try:
            yield
        finally:
            self._ask("start_head_service")

    def groups(self) -> dict[str, str]:
        """Return the states of the placement groups that there are, by name; those without have their id."""
        found: dict[str, str] = self._ask("groups")["groups"]
        return found

    def actors(self) -> dict[str, int]:
        """Return the processes of the named actors that live."""
        found: dict[str, int] = self._ask("actors")["actors"]
        return found

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


def _unauthorized() -> dict[str, str]:
    """Return the environment without what it says of tokens: a head that wants one and is given none ends at once."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}


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
    def __init__(self, place: Path, *, keeps: bool) -> None:
        from ray.cluster_utils import Cluster

        (place / "ray").mkdir()

        self._place = place
        self._cluster: Any = Cluster(shutdown_at_exit=False)
        self._nodes: dict[str, Any] = {}
        self._autoscaler: Any = None
        self._port = 0  # any; a head that is started again has the same
        if keeps:
            os.environ.update(RAY_gcs_storage="rocksdb", RAY_gcs_storage_path=str(place / "kept"))

    def add_node(self, request: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {**request["options"], "temp_dir": str(self._place / "ray")}
        if self._cluster.head_node is None:
            options |= {"_system_config": HEALTH, "include_dashboard": False, "include_log_monitor": False}
            options |= {"gcs_server_port": self._port}
        with _environment(request["env"]):
            node = self._start(options)
        self._nodes[node.node_id] = node
        self._port = int(self._cluster.address.rpartition(":")[2])
        raylet = node.all_processes["raylet"][0].process.pid
        return {"node": node.node_id, "raylet": raylet, "address": self._cluster.address}

    def _start(self, options: dict[str, Any]) -> Any:
        for left in reversed(range(HEAD_TRIES)):
            try:
                return self._cluster.add_node(**options)
            except RuntimeError:
                if not left or self._nodes:
                    raise
                self._give_up_head()
        raise AssertionError("the last try returns or raises")

    def _give_up_head(self) -> None:
        """End a head that did not come up, and say what it wrote."""
        from ray.cluster_utils import Cluster

        from stoker.engine.local import processes

        for log in sorted(self._place.glob("ray/session_*/logs/gcs_server*")):
            print(f"{log}:\n{log.read_text(errors='replace')[-LOG_CHARACTERS:]}", file=sys.stderr)
        processes.kill_all(_descendants)
        shutil.rmtree(self._place / "ray", ignore_errors=True)
        (self._place / "ray").mkdir()
        self._cluster = Cluster(shutdown_at_exit=False)

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

    def start_autoscaler(self, request: dict[str, Any]) -> dict[str, Any]:
        from ray._private import services
        from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG

        base: dict[str, Any] = BASE_READONLY_CONFIG

        head = self._cluster.head_node
        self._kill(head, "monitor")  # it only looks on
        of_head = {"resources": {}, "node_config": {}, "max_workers": 0}
        larger = {"resources": {"CPU": request["cpus"]}, "node_config": {}, "min_workers": 0, "max_workers": 1}
        here = {"head_node_id": head.node_id, "gcs_address": self._cluster.address}
        config = {
            **base,
            "max_workers": 1,
            "idle_timeout_minutes": 60,
            "provider": {**base["provider"], "type": "fake_multinode", **here},
            "available_node_types": {"head": of_head, "larger": larger},
            "head_node_type": "head",
        }
        (self._place / "autoscaling.json").write_text(json.dumps(config))
        with _environment({**request["env"], "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}):
            self._autoscaler = services.start_monitor(
                self._cluster.address,
                str(self._place),
                stdout_filepath=str(self._place / "autoscaler.out"),
                stderr_filepath=str(self._place / "autoscaler.err"),
                autoscaling_config=str(self._place / "autoscaling.json"),
                monitor_ip=None,
            )
        return {}

    def kill_autoscaler(self, request: dict[str, Any]) -> dict[str, Any]:
        from stoker.engine.local import processes

        monitor = self._autoscaler.process
        for pid in [monitor.pid, *processes.descendants([monitor.pid])]:
            os.kill(pid, signal.SIGKILL)
        monitor.wait()
        return {}

    def kill_head(self, request: dict[str, Any]) -> dict[str, Any]:
        head = self._cluster.head_node
        for kind in list(head.all_processes):
            self._kill(head, kind)
        self._nodes.pop(head.node_id, None)
        self._cluster.head_node = None
        self._cluster.global_state.disconnect()  # it knows the old one
        shutil.rmtree(self._place / "kept", ignore_errors=True)
        return {}

    def groups(self, request: dict[str, Any]) -> dict[str, Any]:
        table = self._cluster.global_state.placement_group_table()
        there = {one["name"] or id: one["state"] for id, one in table.items() if one["state"] != "REMOVED"}
        return {"groups": there}

    def actors(self, request: dict[str, Any]) -> dict[str, Any]:
        table = self._cluster.global_state.actor_table(None).values()
        return {"actors": {one["Name"]: one["Pid"] for one in table if one["Name"] and one["State"] == "ALIVE"}}

    def kill_head_service(self, request: dict[str, Any]) -> dict[str, Any]:
        self._cluster.head_node.kill_gcs_server()
        return {}

    def start_head_service(self, request: dict[str, Any]) -> dict[str, Any]:
        self._cluster.head_node.start_gcs_server()
        return {}

    @staticmethod
    def _kill(node: Any, kind: str) -> None:
        for info in node.all_processes[kind]:
            info.process.kill()
            info.process.wait()  # a zombie counts as alive for the workers below it


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])


def _descendants() -> list[int]:
    from stoker.engine.local import processes

    return processes.descendants([os.getpid()])


def _end(place: Path) -> None:
    from stoker.engine.local import processes

    processes.kill_all(_descendants)
    shutil.rmtree(place, ignore_errors=True)
    os._exit(0)


def _main(place: Path, *, keeps: bool) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what a killed raylet leaves behind is ours to end
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda number, frame: _end(place))
    try:
        keeper = _Keeper(place, keeps=keeps)
        for line in sys.stdin:
            request = json.loads(line)
            answers.write(json.dumps(getattr(keeper, request["verb"])(request)) + "\n")
            answers.flush()
    except Exception:
        traceback.print_exc()
    finally:
        _end(place)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), keeps="keeps" in sys.argv[2:])
