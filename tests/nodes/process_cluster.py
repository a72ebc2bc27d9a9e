"""A cluster whose nodes are lines of a file, and whose agents are plain processes that outlive the server.

``nodes.json`` in a directory: ``{"n1": {"cpus": 2, …}}``. A test adds a node or takes one away by replacing the file.
Groups and the pids of agents are kept beside it, as a cluster's head would.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stoker.engine.local.config import FINGERPRINT_VARIABLE, TOKEN_VARIABLE
from stoker.engine.local.node import CPUS_VARIABLE, MEMORY_VARIABLE
from stoker.engine.local.processes import start_time
from stoker.engine.ray import cluster as c

NODES, GROUPS, AGENTS = "nodes.json", "groups.json", "agents.json"
LOOK_SECONDS = 0.05
GIB = 1 << 30


class ProcessCluster:
    """See the module, and `Cluster`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listener: c.ClusterListener = lambda event: None
        self._agents: dict[str, list[int]] = _read(root / AGENTS)  # pid and start time, by node
        self._groups: dict[str, list[dict[str, Any]]] = _read(root / GROUPS)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._seen: dict[str, Any] | None = None
        self._asked: dict[str, tuple[list[c.Room], float]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return "127.0.0.1"

    @property
    def place(self) -> str:
        return "this machine"

    def set_listener(self, listener: c.ClusterListener) -> None:
        self._listener = listener

    async def start_up(self) -> None:
        self._listener(
            c.ClusterBack({name: [c.Room(**room) for room in rooms] for name, rooms in self._groups.items()})
        )
        self._look()
        self._task = asyncio.create_task(self._watch())

    async def shut_down(self) -> None:
        await self.abandon()
        for node in list(self._agents):
            self._end(node)
        for process in self._children.values():
            await asyncio.to_thread(process.wait)
        self._groups.clear()
        self._keep()

    async def abandon(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def reserve(self, group: str, rooms: list[c.Room], *, patience: float) -> None:
        self._asked[group] = (rooms, time.monotonic() + patience)
        asyncio.get_running_loop().call_soon(self._answer)

    def release(self, group: str) -> None:
        self._asked.pop(group, None)
        if self._groups.pop(group, None) is not None:
            self._keep()

    def demand(self, rooms: list[c.Room]) -> None:
        (self._root / "demand.json").write_text(json.dumps([room.cpus for room in rooms]))

    def start_agent(self, order: c.AgentOrder) -> None:
        if self._lives(order.node):
            return
        place = self._root / order.node
        place.mkdir(exist_ok=True)
        nodes = _read(self._root / NODES)
        words = {
            "run-dir": place / "run",
            "state-dir": place / "state",
            "server": nodes[order.node].get("server", order.server),
            "node": order.node,
            "mode": "persistent",
            "grace": order.grace,
        }
        env = {
            **{name: value for name, value in os.environ.items() if name not in {"STOKER_LISTEN", "STOKER_ENGINE"}},
            "STOKER_HOME": nodes[order.node].get("home", str(place / "home")),
            TOKEN_VARIABLE: order.token,
            FINGERPRINT_VARIABLE: order.fingerprint,
            CPUS_VARIABLE: f"{order.cpus:g}",
            MEMORY_VARIABLE: str(order.memory),
            **nodes[order.node].get("env", {}),
        }
        command = [
            *nodes[order.node].get("prefix", []),
            sys.executable,
            "-m",
            "stoker.engine.local.agent",
            *(f"--{name}={value}" for name, value in words.items()),
        ]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
        self._children[process.pid] = process
        self._agents[order.node] = [process.pid, start_time(process.pid) or 0]
        self._keep()

    def stop_agent(self, node: str) -> None:
        self._end(node)

    def _end(self, node: str) -> None:
        pid, began = self._agents[node]
        if start_time(pid) == began:
            os.kill(pid, signal.SIGTERM)

    def _lives(self, node: str) -> bool:
        pid, began = self._agents.get(node, (0, 0))
        process = self._children.get(pid)
        return bool(pid) and (process is None or process.poll() is None) and start_time(pid) == began

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look()
            self._answer()
            for node in [node for node in self._agents if not self._lives(node)]:
                del self._agents[node]
                self._keep()
                self._listener(c.AgentEnded(node, "its process is gone"))

    def _look(self) -> None:
        nodes = _read(self._root / NODES)
        found = {name: {**node, "free": node["cpus"] - self._held(name)} for name, node in nodes.items()}
        if found == self._seen:
            return
        self._seen = found
        self._listener(c.NodesSeen([_node(name, node) for name, node in found.items()]))

    def _held(self, node: str) -> float:
        return float(sum(room["cpus"] for rooms in self._groups.values() for room in rooms if room["node"] == node))

    def _answer(self) -> None:
        nodes = _read(self._root / NODES)
        for group, (rooms, until) in list(self._asked.items()):
            wanted = {room.node: sum(r.cpus for r in rooms if r.node == room.node) for room in rooms}
            if all(n in nodes and cpus <= nodes[n]["cpus"] - self._held(n) + 1e-6 for n, cpus in wanted.items()):
                del self._asked[group]
                self._groups[group] = [{"node": room.node, "cpus": room.cpus} for room in rooms]
                self._keep()
                self._listener(c.Reserved(group, [room.node for room in rooms], [[] for _ in rooms]))
            elif time.monotonic() > until:
                del self._asked[group]
                self._listener(c.ReserveFailed(group, "there is no room"))

    def _keep(self) -> None:
        for name, value in ((GROUPS, self._groups), (AGENTS, self._agents)):
            draft = self._root / f"{name}.new"
            draft.write_text(json.dumps(value))
            draft.replace(self._root / name)


def _node(name: str, node: dict[str, Any]) -> c.ClusterNode:
    memory = node.get("memory", 8 * GIB)
    return c.ClusterNode(
        name,
        node.get("address", "127.0.0.1"),
        node["cpus"],
        memory,
        node["free"],
        memory,
        draining=node.get("draining", 0.0),
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else {}
