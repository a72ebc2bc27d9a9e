"""A server with nodes of its own, for a test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

from stoker.engine.local.config import segments_of
from stoker.engine.local.processes import descendants, start_time
from tests.faults.running import PersistentServer
from tests.nodes.process_cluster import AGENTS, GROUPS, NODES
from tests.waiting import wait_until


class Nodes:
    """See the module. The environment must name a home and a runtime directory of the test's own."""

    def __init__(self, root: Path, *, lease: str = "5s", **nodes: dict[str, Any]) -> None:
        self.root = root
        self.lease = lease
        self.port = _free_port()
        self.change(**nodes)
        os.environ.update(
            STOKER_ENGINE="ray",
            STOKER_LISTEN=f"127.0.0.1:{self.port}",
            STOKER_NODE_LEASE=lease,
            STOKER_TEST_NODES=str(root),
        )
        self.server = PersistentServer(module="tests.nodes.server")

    def start(self) -> None:
        answer = self.server.start()
        assert "error" not in answer, answer

    def stop(self) -> None:
        self.server.stop()
        for node in self.read(AGENTS):
            self.kill(node)
        for place in self.root.glob("*/run"):
            shutil.rmtree(segments_of(place, place.parent / "state"), ignore_errors=True)

    def change(self, **nodes: dict[str, Any]) -> None:
        """Have these nodes in the cluster, and no others."""
        draft = self.root / "nodes.new"
        draft.write_text(json.dumps(nodes))
        draft.replace(self.root / NODES)

    def behind(self, port: int, **nodes: dict[str, Any]) -> None:
        """Have these nodes in the cluster, and ``n2`` reach the server at another port."""
        nodes["n2"]["server"] = f"stoker://127.0.0.1:{port}"
        self.change(**nodes)
        before = self.agent("n2")
        self.kill("n2")
        wait_until(lambda: self.read(AGENTS).get("n2", [before])[0] != before, message="another agent of n2")

    def read(self, name: str) -> Any:
        path = self.root / name
        return json.loads(path.read_text()) if path.exists() else {}

    def groups(self) -> list[str]:
        return sorted(self.read(GROUPS))

    def agent(self, node: str) -> int:
        """Return the pid of a node's agent, once there is one."""
        return int(wait_until(lambda: self.read(AGENTS).get(node), message=f"agent of {node}")[0])

    def processes(self, node: str) -> list[int]:
        """Return all that runs on a node."""
        pid = self.agent(node)
        return [pid, *descendants([pid])]

    def kill(self, node: str) -> None:
        """Switch a node off: everything on it is gone at once."""
        for pid in self.processes(node):
            if start_time(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        place = self.root / node
        shutil.rmtree(segments_of(place / "run", place / "state"), ignore_errors=True)  # as memory does

    def freeze(self, node: str, *, on: bool = True) -> None:
        """Have nothing on a node run, or all of it again."""
        for pid in self.processes(node):
            os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
