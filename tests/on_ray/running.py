"""A Ray of several nodes on this machine, and a server on it: a place for a test's programs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from stoker.client.connection import SocketEndpoint
from stoker.client.session import Session
from stoker.engine.local.config import segments_of
from tests.faults.running import PersistentServer
from tests.ray_clusters import RayClusterProcess, RayNode, free_port
from tests.waiting import wait_until

START_SECONDS = 120.0  # for agents on all nodes, each below an actor of Ray's, which imports it
IDLE_SECONDS = 40.0  # for what an app leaves to be gone
BESIDE = "holds-the-lock."  # the functions of a program that runs beside a whole module
SUCCEEDED = 1  # as the store writes it


class Nodes:
    """A Ray, with no server on it yet. Its nodes are called n1, n2, …; each has a home in a directory of that name."""

    def __init__(self, *, cpus: tuple[float, ...], gpus: float, keeps: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="or", dir=os.environ["STOKER_TEST_ROOT"]))
        self.runtime = self.root / "r"
        self.names: dict[str, str] = {}  # by the node's id
        self.cluster = RayClusterProcess(keeps=keeps)
        try:
            for one in cpus:
                self.add(cpus=one, gpus=gpus)
        except BaseException:
            self.cluster.stop()
            raise

    def places(self, name: str) -> dict[str, str]:
        """Return the environment of a node."""
        # Below the programs' own runtime directory: what runs on nodes is found there, as on one machine.
        return {"STOKER_HOME": str(self.root / name / "home"), "STOKER_RUNTIME_DIR": str(self.runtime / name)}

    def add(self, *, cpus: float = 2, gpus: float = 0) -> RayNode:
        name = f"n{len(self.names) + 1}"
        node = self.cluster.add_node(cpus=cpus, gpus=gpus, env=self.places(name))
        self.names[node.id] = name
        return node

    def stop(self) -> None:
        self.cluster.stop()
        for agent in self.runtime.glob("n*/nodes/*"):
            state = self.root / agent.parent.parent.name / "home" / "nodes" / agent.name
            shutil.rmtree(segments_of(agent, state), ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)


class OnRay:
    """A server on a Ray, and the directories of its programs. See the module."""

    def __init__(self, nodes: Nodes, *, name: str = "", module: str = "stoker.server") -> None:
        self._nodes = nodes
        self.cluster, self.names = nodes.cluster, nodes.names
        self.home, self.runtime = nodes.root / f"home{name}", nodes.runtime / name
        self.port = free_port()  # agents come back to where the server was
        self.server = PersistentServer(env=self.environment, module=module)
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """Return what the server and its programs are started with."""
        return {
            "STOKER_HOME": str(self.home),
            "STOKER_RUNTIME_DIR": str(self.runtime),
            "STOKER_ENGINE": "ray",
            "STOKER_RAY_ADDRESS": self.cluster.address,
            "STOKER_LISTEN": f"127.0.0.1:{self.port}",
            "STOKER_HTTP": "127.0.0.1:0",
        }

    def add_node(self, *, cpus: float = 2) -> RayNode:
        return self._nodes.add(cpus=cpus)

    def start_autoscaler(self, name: str, *, cpus: float) -> None:
        """Have Ray add a node of that name and size by itself, where something waits for it."""
        self.cluster.start_autoscaler(cpus=cpus, env=self._nodes.places(name))

    def start(self) -> None:
        """Start the server, again if it was killed, and return when it has an agent on each node."""
        answer = self.server.start()
        assert "error" not in answer, answer
        self.wait_for_nodes(len(self.cluster.nodes))

    def wait_for_nodes(self, count: int) -> None:
        wait_until(lambda: len(self.status()["nodes"]) == count, timeout=START_SECONDS, message=f"{count} nodes")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("status")
        return found

    def why(self, call: str) -> str:
        """Return what a call waits for, as people are told."""
        return str(self._ask("call", id=call).get("why", ""))

    def _ask(self, verb: str, **params: Any) -> Any:
        session = Session(SocketEndpoint(str(self.runtime / "server" / "server.sock")))
        try:
            return session.request(verb, params)
        finally:
            session.close()

    @property
    def http(self) -> str:
        """Return where the server answers requests over HTTP."""
        return next(str(door["address"]) for door in self.status()["doors"] if door["kind"] == "http")

    def node_names(self) -> list[str]:
        return [self.names[node.id] for node in self.cluster.nodes]

    def is_draining(self, node: RayNode) -> bool:
        return f"node {node.id[:12]} is taken away" in self.server.log.read_text()

    def agents(self) -> dict[str, int]:
        """Return the actors below which servers' agents are; those of nodes that were killed just now apart."""
        there = tuple(f"-agent-{node.id}" for node in self.cluster.nodes)
        return {name: pid for name, pid in self.cluster.actors().items() if name.endswith(there)}

    def check_idle(self) -> None:
        """Fail unless the calls of a test's programs are gone with them; idle workers make room for other ones."""
        wait_until(lambda: not self._open_calls(), timeout=IDLE_SECONDS, message="no call is open")

    def _open_calls(self) -> list[str]:
        rows = [row for state in ("queued", "running", "backoff") for row in self._ask("calls", state=state)]
        return [row["id"] for row in rows if not row["function"].startswith(BESIDE)]

    @contextmanager
    def instead(self, *, module: str) -> Iterator[OnRay]:
        """Have another server on the Ray while this one, with all its idle workers, is not there."""
        self.stop()
        other = OnRay(self._nodes, name="2", module=module)
        try:
            yield other
        finally:
            other.stop()
            self.start()

    def stop(self) -> None:
        """End the server; it may have left nothing on the Ray."""
        self.server.stop()
        left = {**self.cluster.groups(), **self.cluster.actors()}
        assert not left, f"left on the Ray: {left}"


@contextmanager
def on_ray(*, cpus: tuple[float, ...] = (2, 2), gpus: float = 0, keeps: bool = False) -> Iterator[OnRay]:
    """Have a Ray with a server on it. ``keeps``: its head keeps what it knows."""
    nodes = Nodes(cpus=cpus, gpus=gpus, keeps=keeps)
    try:
        found = OnRay(nodes)
        try:
            yield found
        finally:
            found.stop()
    finally:
        nodes.stop()


def check_settled_once(home: Path, ids: set[str]) -> None:
    """Fail unless the store of a server has one result of each of these calls, and each has succeeded."""
    query = "SELECT id, state, count(results.seq) FROM calls LEFT JOIN results USING (seq) GROUP BY id"
    with closing(sqlite3.connect(home / "server" / "store.db")) as store:
        rows = {call_id: (state, results) for call_id, state, results in store.execute(query) if call_id in ids}
    assert rows.keys() == ids
    assert set(rows.values()) == {(SUCCEEDED, 1)}
