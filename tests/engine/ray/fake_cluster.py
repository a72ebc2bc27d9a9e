"""A cluster in memory, whose agents are in memory too: for the Ray engine's own decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from stoker._version import __version__
from stoker.engine.ray import cluster as c
from stoker.engine.ray.engine import RayEngine
from stoker.protocol import messages as m

GIB = 1 << 30


@dataclass(eq=False)
class FakeAgent:
    """An agent that starts whatever it is told to, at once; ``silent`` it says nothing any more."""

    order: c.AgentOrder
    engine: RayEngine
    pid: int = 77
    running: dict[str, m.StartWorker] = field(default_factory=dict)
    beats: list[m.Beat] = field(default_factory=list)
    silent: bool = False
    closed: bool = False
    ended: Callable[[], None] = lambda: None

    def connect(self, *, term: int = 1) -> None:
        self.closed = self.silent = False
        self.engine.attach(self, m.Hello("agent", self.order.node, __version__, pid=self.pid), term=term)
        self.say(self.state())

    def disconnect(self) -> None:
        self.closed = True
        self.engine.detach(self)

    def state(self) -> m.NodeState:
        orders = list(self.running.values())
        size = (self.order.cpus, self.order.memory)
        return m.NodeState(
            *size,
            *size,
            labels={"host": self.order.node},
            workers=[one.worker for one in orders],
            functions=[one.function.key for one in orders],
            pids=[5 for _ in orders],
            cpus_held=[one.cpus for one in orders],
            memory_held=[one.memory for one in orders],
            grants=[one.grant for one in orders],
        )

    def say(self, message: Any) -> None:
        if not self.silent and not self.closed:
            assert self.engine.deliver(self, message)

    def beat(self) -> None:
        self.say(m.Beat(1))

    # What the engine does with it

    def send(self, message: Any) -> None:
        asyncio.get_running_loop().call_soon(self._take, message)

    def flush(self) -> None:
        return

    def close(self) -> None:
        self.closed = True

    def _take(self, message: Any) -> None:
        match message:
            case m.StartWorker():
                self.running[message.worker] = message
                self.say(m.WorkerStarted(message.worker, 5, "fork"))
            case m.StopWorker():
                self.end(message.worker, "stopped")
            case m.Request(verb="stop"):
                for worker in list(self.running):
                    self.end(worker, "stopped")
                self.say(m.Reply(message.id, {}))
                self.disconnect()
                self.ended()
            case m.Request():
                self.say(m.Reply(message.id, [] if message.verb != "inventory" else {"pid": self.pid}))
            case m.FlushLogs():
                self.say(m.LogsFlushed(message.id))
            case m.Beat():
                self.beats.append(message)

    def end(self, worker: str, cause: str = "exit") -> None:
        if self.running.pop(worker, None) is not None:
            self.say(m.WorkerExited(worker, cause, "it ended"))


class FakeCluster:
    """See the module, and `Cluster`. ``taken`` is what other work holds; with ``slow`` tests answer reservations."""

    def __init__(self, *nodes: c.ClusterNode) -> None:
        self.machines = {node.id: node for node in nodes}
        self.taken: dict[str, float] = {}
        self.groups: dict[str, list[c.Room]] = {}
        self.asked: dict[str, list[c.Room]] = {}
        self.demanded: list[c.Room] = []
        self.agents: dict[str, FakeAgent] = {}
        self.orders: list[c.AgentOrder] = []
        self.slow = False
        self.adds_nodes = True
        self.automatic = True  # agents connect when they are started
        self.engine: RayEngine
        self._listener: c.ClusterListener = lambda event: None

    @property
    def address(self) -> str:
        return "127.0.0.1"

    @property
    def place(self) -> str:
        return "127.0.0.1:6379"

    def set_listener(self, listener: c.ClusterListener) -> None:
        self._listener = listener

    async def start_up(self) -> None:
        self._listener(c.ClusterBack(dict(self.groups)))
        self.look()

    async def shut_down(self) -> None:
        self.agents.clear()
        self.groups.clear()

    async def abandon(self) -> None:
        return

    def reserve(self, group: str, rooms: list[c.Room], *, patience: float) -> None:
        self.asked[group] = rooms
        if not self.slow:
            asyncio.get_running_loop().call_soon(self.answer, group)

    def answer(self, group: str, *, refuse: str = "") -> None:
        rooms = self.asked.pop(group, None)
        if rooms is None:
            return
        for room in rooms:
            node = self.machines.get(room.node)
            if node is None or self._free(node) < sum(r.cpus for r in rooms if r.node == room.node):
                refuse = refuse or "other work was faster"
        if refuse:
            self._listener(c.ReserveFailed(group, refuse))
            return
        self.groups[group] = rooms
        devices = [[str(i) for i in range(int(room.gpus))] for room in rooms]
        self._listener(c.Reserved(group, [room.node for room in rooms], devices))

    def release(self, group: str) -> None:
        self.groups.pop(group, None)
        self.asked.pop(group, None)

    def demand(self, rooms: list[c.Room]) -> None:
        self.demanded = rooms

    def start_agent(self, order: c.AgentOrder) -> None:
        self.orders.append(order)
        agent = self.agents[order.node] = FakeAgent(order, self.engine)
        if self.automatic:
            asyncio.get_running_loop().call_soon(agent.connect)

    def stop_agent(self, node: str) -> None:
        self.agents.pop(node).disconnect()
        self.tell(c.AgentEnded(node, "stopped"))

    # What tests decide

    def tell(self, event: c.ClusterEvent) -> None:
        self._listener(event)

    def look(self) -> None:
        """Have the cluster report its nodes."""
        nodes = [replace(n, cpus_free=self._free(n)) for n in self.machines.values()]
        self._listener(c.NodesSeen(nodes, self.adds_nodes))

    def _free(self, node: c.ClusterNode) -> float:
        held = sum(room.cpus for rooms in self.groups.values() for room in rooms if room.node == node.id)
        return node.cpus - held - self.taken.get(node.id, 0.0)


def machine(name: str, *, cpus: float = 4.0, memory: int = 4 * GIB, **fields: Any) -> c.ClusterNode:
    return c.ClusterNode(name, "10.0.0.1", cpus, memory, cpus, memory, **fields)
