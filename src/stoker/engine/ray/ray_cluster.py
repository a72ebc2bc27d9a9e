"""The `Cluster` of a real Ray, on the server's side: it keeps a bridge to it, and knows nothing of Ray's own.

Ray ends the process of a driver whose raylet or head goes away. So the driver is a child, the bridge
(`stoker.engine.ray.bridge`): it is started again when it ends, and this side says again what has not been answered.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import socket
import sys
import time
from asyncio.subprocess import Process
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stoker import paths
from stoker.engine.ray import wire
from stoker.engine.ray.cluster import (
    AgentEnded,
    AgentOrder,
    ClusterBack,
    ClusterEvent,
    ClusterListener,
    ClusterLost,
    NodesSeen,
    Reserved,
    ReserveFailed,
    Room,
)
from stoker.errors import ConnectionFailed, InvalidOption, InvalidRequest, StokerError, from_wire

CONNECT_SECONDS = 14.0  # to reach a cluster that is there: two, on a busy machine some more
RESTART_FIRST_SECONDS = 0.2
RESTART_LAST_SECONDS = 10.0  # a cluster that is away for an hour is not asked in a tight loop
END_ALL_SECONDS = 60.0  # agents give their workers some seconds, and nodes may be slow
BRIDGE_END_SECONDS = 2.0  # for a bridge to end when its connection has; then it is killed
PROBLEM_SECONDS = 60.0  # a node that could run no agent may be tried again: somebody may have installed what it lacks
FORGIVE_SLACK_SECONDS = 0.01  # timers may be early by the clock's resolution
LOG_BYTES = 1 << 20  # of the bridge's own output that are kept, at least
LINE_BYTES = 64 << 20  # of one message: thousands of nodes with all their resources
OWNER = re.compile(r"[A-Za-z0-9_]{1,16}")
log = logging.getLogger("stoker.engine.ray")


@dataclass(frozen=True)
class _Wish:
    """A group that was asked for and has no answer yet. ``until`` is of the monotonic clock."""

    rooms: list[Room]
    until: float


class RayCluster:
    """See the module, and `stoker.engine.ray.cluster.Cluster`.

    ``owner`` tells this server's groups and agents from those of others on the cluster, and is the same when it comes
    back: letters, digits and underscores, 16 at most.
    """

    def __init__(self, *, address: str, owner: str, state_dir: Path) -> None:
        if not OWNER.fullmatch(owner):
            raise InvalidOption(f"{owner!r} cannot name a server on a Ray cluster: 1 to 16 letters, digits or '_'.")
        if address.startswith("ray://"):
            raise InvalidOption(
                f"{address} is the address of a Ray client server. Name the cluster itself: --ray-address HOST:6379, "
                "or 'auto' on a machine that is one of its nodes."
            )
        self._reach = wire.Reach(address, owner)
        self._log = state_dir / "ray-bridge.log"
        self._listener: ClusterListener = lambda event: None
        self._address = ""
        self._place = ""
        self._bridge: _Bridge | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._wishes: dict[str, _Wish] = {}
        self._released: set[str] = set()  # while the cluster was lost
        self._demand: list[Room] = []
        self._orders: dict[str, AgentOrder] = {}  # by node, until the agent has ended
        self._confirmed: set[str] = set()  # nodes whose agent is known to have been started
        self._stopping: set[str] = set()
        self._problems: dict[str, tuple[str, float]] = {}
        self._forgiving: asyncio.TimerHandle | None = None  # the end of the last problem
        self._nodes: NodesSeen | None = None  # as the bridge said it last
        self._seen = asyncio.Event()

    @property
    def address(self) -> str:
        return self._address

    @property
    def place(self) -> str:
        return self._place

    def set_listener(self, listener: ClusterListener) -> None:
        self._listener = listener

    async def start_up(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise InvalidRequest(
                f"Ray is not installed in {sys.executable}, and --engine ray needs it: pip install 'stoker[ray]'."
            )
        bridge, reached = await self._connect()
        self._on_reached(bridge, reached)
        self._keeper = asyncio.create_task(self._keep(bridge), name="ray bridge keeper")
        await self._seen.wait()

    async def shut_down(self) -> None:
        bridge = self._bridge
        if bridge is not None:
            bridge.ended_all = asyncio.get_running_loop().create_future()
            bridge.send(wire.EndAll())
            try:
                left = await asyncio.wait_for(bridge.ended_all, END_ALL_SECONDS)
            except (TimeoutError, ConnectionFailed) as error:
                left = [f"what the cluster did not say: {error!r}"]
            if left:
                log.warning("not everything on the Ray cluster could be ended: %s", "; ".join(left))
        elif self._orders:
            log.warning("the Ray cluster is out of reach: agents there end by themselves when their grace is over")
        await self.abandon()

    async def abandon(self) -> None:
        if self._forgiving is not None:
            self._forgiving.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._bridge is not None:
            await self._bridge.end()
            self._bridge = None

    def reserve(self, group: str, rooms: list[Room], *, patience: float) -> None:
        self._released.discard(group)
        self._wishes[group] = _Wish(rooms, time.monotonic() + patience)
        self._send(wire.Reserve(group, rooms, patience))

    def release(self, group: str) -> None:
        self._wishes.pop(group, None)
        if self._bridge is None:
            self._released.add(group)
        self._send(wire.Release(group))

    def demand(self, rooms: list[Room]) -> None:
        self._demand = rooms
        self._send(wire.Demand(rooms))

    def start_agent(self, order: AgentOrder) -> None:
        self._orders[order.node] = order
        self._stopping.discard(order.node)
        self._confirmed.discard(order.node)
        self._send(wire.StartAgent(order))

    def stop_agent(self, node: str) -> None:
        if node in self._orders:
            self._stopping.add(node)
            self._send(wire.StopAgent(node))

    def _send(self, order: Any) -> None:
        if self._bridge is not None:
            self._bridge.send(order)

    # The bridge

    async def _connect(self) -> tuple[_Bridge, wire.Reached]:
        starting = asyncio.ensure_future(_Bridge.start(self._log))
        try:
            bridge = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await (await starting).end(patience=0.0)
            raise
        bridge.send(self._reach)
        try:
            answer = await asyncio.wait_for(bridge.receive(), CONNECT_SECONDS)
        except TimeoutError:
            await bridge.end(patience=0.0)
            raise ConnectionFailed(
                f"Ray did not answer at {self._reach.address} within {CONNECT_SECONDS:.0f} s. Is that the address of a "
                "Ray cluster's head, as `ray start --head` printed it?"
            ) from None
        except asyncio.CancelledError:
            await bridge.end(patience=0.0)
            raise
        if isinstance(answer, wire.Reached):
            return bridge, answer
        await bridge.end()
        if isinstance(answer, wire.Refused):
            raise from_wire(answer.error, answer.reason)
        raise ConnectionFailed(
            f"The bridge to the Ray cluster at {self._reach.address} ended before it was there: {bridge.last_words()}"
        )

    async def _keep(self, bridge: _Bridge) -> None:
        """Take what the bridge says, and have another one when it ends."""
        while True:
            reason = await self._listen(bridge)
            self._bridge = self._nodes = None
            await bridge.end()
            self._listener(ClusterLost(reason))
            bridge, reached = await self._connect_again()
            self._on_reached(bridge, reached)

    async def _connect_again(self) -> tuple[_Bridge, wire.Reached]:
        pause = RESTART_FIRST_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                return await self._connect()
            except (OSError, StokerError) as error:  # no file descriptor or process left, say: later there may be one
                log.debug("the Ray cluster is still out of reach: %s", error)
            pause = min(2 * pause, RESTART_LAST_SECONDS)

    async def _listen(self, bridge: _Bridge) -> str:
        while True:
            message = await bridge.receive()
            match message:
                case None:
                    return bridge.last_words()
                case wire.Refused():
                    return message.reason
                case wire.AllEnded():
                    bridge.answer_end(message.left)
                case wire.AgentRuns():
                    self._confirmed.add(message.node)
                    self._problems.pop(message.node, None)
                case _:
                    self._on_event(message)

    def _on_reached(self, bridge: _Bridge, reached: wire.Reached) -> None:
        self._bridge = bridge
        self._address, self._place = reached.address, reached.cluster
        ours = reached.groups
        known = self._wishes.keys() | self._released
        self._listener(ClusterBack({name: ours[name] for name in sorted(ours.keys() - known)}))
        for group in sorted(self._released & ours.keys()):
            bridge.send(wire.Release(group))
        self._released.clear()
        for node in [node for node in self._orders if node in self._confirmed and node not in reached.agents]:
            self._on_event(AgentEnded(node, "it ended while the Ray cluster was out of reach"))
        for order in self._orders.values():
            bridge.send(wire.StartAgent(order))
        for node in self._stopping:
            bridge.send(wire.StopAgent(node))
        self._wish_again(bridge)
        bridge.send(wire.Demand(self._demand))

    def _wish_again(self, bridge: _Bridge) -> None:
        for group, wish in list(self._wishes.items()):
            left = wish.until - time.monotonic()
            if left > 0:
                bridge.send(wire.Reserve(group, wish.rooms, left))
            else:
                bridge.send(wire.Release(group))
                self._on_event(ReserveFailed(group, "the Ray cluster was out of reach for too long"))

    # Events

    def _on_event(self, event: ClusterEvent) -> None:
        match event:
            case Reserved() | ReserveFailed():
                if self._wishes.pop(event.group, None) is None:
                    return  # released meanwhile
            case AgentEnded():
                if self._orders.pop(event.node, None) is None:
                    return  # an earlier server's, which this one has not asked for
                if event.node not in self._confirmed and event.node not in self._stopping:
                    self._problems[event.node] = (event.reason, time.monotonic() + PROBLEM_SECONDS)
                    self._forgive_later()
                self._confirmed.discard(event.node)
                self._stopping.discard(event.node)
            case NodesSeen():
                self._nodes = event
                event = self._with_problems(event)
            case _:
                pass
        self._listener(event)
        if isinstance(event, NodesSeen):
            self._seen.set()

    def _forgive_later(self) -> None:
        if self._forgiving is not None:
            self._forgiving.cancel()
        self._forgiving = asyncio.get_running_loop().call_later(PROBLEM_SECONDS + FORGIVE_SLACK_SECONDS, self._forgive)

    def _forgive(self) -> None:
        """Say the nodes without what is over: on a cluster where nothing changes the bridge says nothing."""
        self._forgiving = None
        if self._bridge is not None and self._nodes is not None:
            self._on_event(self._nodes)

    def _with_problems(self, seen: NodesSeen) -> NodesSeen:
        now = time.monotonic()
        self._problems = {node: problem for node, problem in self._problems.items() if problem[1] > now}
        nodes = [replace(node, problem=self._problems.get(node.id, ("", 0.0))[0]) for node in seen.nodes]
        return replace(seen, nodes=nodes)


class _Bridge:
    """A bridge process and the connection to it."""

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        output: Path,
        start: int,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._output = output
        self._start = start
        self.ended_all: asyncio.Future[list[str]] | None = None

    @classmethod
    async def start(cls, output: Path) -> _Bridge:
        paths.private_dir(output.parent)
        ours, theirs = socket.socketpair()
        size = output.stat().st_size if output.exists() else 0
        with theirs, output.open("ab" if size < LOG_BYTES else "wb") as sink:
            start = sink.tell()
            os.set_inheritable(theirs.fileno(), True)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "stoker.engine.ray.bridge",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is the server's to handle
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        return cls(process, reader, writer, output=output, start=start)

    def send(self, order: Any) -> None:
        self._writer.write(wire.encode(order))

    async def receive(self) -> Any:
        """Return the next message, None when the bridge has ended."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return wire.decode(line) if line.endswith(b"\n") else None

    def answer_end(self, left: list[str]) -> None:
        if self.ended_all is not None and not self.ended_all.done():
            self.ended_all.set_result(left)

    async def end(self, *, patience: float = BRIDGE_END_SECONDS) -> None:
        """Close the connection, which ends the bridge, and wait for that."""
        if self.ended_all is not None and not self.ended_all.done():
            self.ended_all.set_exception(ConnectionFailed("The bridge to the Ray cluster ended."))
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), patience)
        except (TimeoutError, asyncio.CancelledError) as error:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            if isinstance(error, asyncio.CancelledError):
                raise

    def last_words(self) -> str:
        """Return the last line that the bridge wrote, for people."""
        try:
            said = self._output.read_bytes()[self._start :][-4096:].decode(errors="replace").strip()
        except OSError:  # somebody has removed it
            said = ""
        return said.rpartition("\n")[2] or "the driver of the cluster was ended, as Ray does when its head or node goes"
