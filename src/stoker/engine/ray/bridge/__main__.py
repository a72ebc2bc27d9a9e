"""The bridge's process: it carries out the server's orders one by one, and says what comes of them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

from stoker.engine.ray import wire
from stoker.engine.ray.bridge.reaching import reach
from stoker.engine.ray.cluster import NodesSeen
from stoker.errors import StokerError

POLL_SECONDS = 1.0  # how soon a node that comes, goes or fills up is seen; costs the head a few small answers
SILENT_SECONDS = 10.0  # a head that is restarted in less is not noticed
LINE_BYTES = 64 << 20
EXIT_REFUSED = 2
EXIT_LOST = 3


class Bridge:
    """See the module. Ray is reached before one is made."""

    def __init__(self, owner: str, cluster: str, writer: asyncio.StreamWriter) -> None:
        import ray

        from stoker.engine.ray.bridge import node_actor
        from stoker.engine.ray.bridge.agents import Agents
        from stoker.engine.ray.bridge.demand import Demand
        from stoker.engine.ray.bridge.groups import Groups

        ray.cloudpickle.register_pickle_by_value(node_actor)
        self._writer = writer
        self._cluster = cluster
        self._groups = Groups(owner, say=self._say)
        self._agents = Agents(owner, say=self._say)
        self._demand = Demand()
        self._ending: asyncio.Task[None] | None = None

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve until the other side closes the connection, or the head is silent."""
        import ray

        from stoker.engine.ray.bridge.threads import in_thread

        agents = await in_thread(self._agents.find)
        groups = await in_thread(self._groups.find)
        self._say(wire.Reached(ray.util.get_node_ip_address(), self._cluster, groups, agents))
        self._agents.watch(agents)
        polling = asyncio.create_task(self._poll(), name="poll nodes")
        orders = asyncio.create_task(self._take_orders(reader), name="orders")
        await asyncio.wait([polling, orders], return_when=asyncio.FIRST_COMPLETED)
        if polling.done():
            polling.result()

    async def _take_orders(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._obey(wire.decode(line))

    def _obey(self, order: Any) -> None:
        match order:
            case wire.Reserve():
                self._groups.reserve(order.group, order.rooms, patience=order.patience)
            case wire.Release():
                self._groups.release(order.group)
            case wire.Demand():
                self._demand.say(order.rooms)
            case wire.StartAgent():
                self._agents.start(order.order)
            case wire.StopAgent():
                self._agents.stop(order.node)
            case wire.EndAll():
                self._ending = asyncio.create_task(self._end_all(), name="end all")

    async def _end_all(self) -> None:
        await self._demand.withdraw()
        left = await self._agents.end_all()
        self._say(wire.AllEnded(left + await self._groups.remove_all()))

    async def _poll(self) -> None:
        """Say what the nodes are like whenever that changes.

        Raises:
            StokerError: the head does not answer.
        """
        from stoker.engine.ray.bridge.autoscaler import Autoscaler
        from stoker.engine.ray.bridge.nodes import look

        before, autoscaler = None, Autoscaler()
        while True:
            try:
                nodes = await asyncio.wait_for(asyncio.to_thread(look), SILENT_SECONDS)
                adds_nodes = await asyncio.wait_for(asyncio.to_thread(autoscaler.look), SILENT_SECONDS)
            except TimeoutError:
                raise StokerError(f"the cluster's head has not answered for {SILENT_SECONDS:.0f} s") from None
            self._groups.see({node.id for node in nodes})
            seen = NodesSeen(nodes, adds_nodes)
            if seen != before:
                self._say(seen)
                before = seen
            await asyncio.sleep(POLL_SECONDS)

    def _say(self, message: Any) -> None:
        self._writer.write(wire.encode(message))


async def serve(connection: socket.socket, owner: str, cluster: str) -> None:
    reader, writer = await asyncio.open_connection(sock=connection, limit=LINE_BYTES)
    await Bridge(owner, cluster, writer).run(reader)


def main() -> int:
    connection = socket.socket(fileno=int(sys.argv[1]))
    first = _first_order(connection)
    try:
        cluster = reach(first.address)
        # Not `asyncio.run`: it waits for threads, and one may wait for a head that is gone.
        asyncio.new_event_loop().run_until_complete(serve(connection, first.owner, cluster))
    except StokerError as error:
        _refuse(connection, error)
        return EXIT_REFUSED
    return 0


def _first_order(connection: socket.socket) -> wire.Reach:
    line = b""
    while not line.endswith(b"\n"):  # byte by byte: what follows is for the loop
        if not (more := connection.recv(1)):
            sys.exit(0)
        line += more
    order = wire.decode(line)
    assert isinstance(order, wire.Reach)
    return order


def _refuse(connection: socket.socket, error: StokerError) -> None:
    try:
        connection.setblocking(True)
        connection.sendall(wire.encode(wire.Refused(type(error).__name__, str(error))))
    except OSError:
        pass  # the server is gone, or the loop has closed it: the log has it
    print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    finally:
        # Without Ray's own end: it waits for threads that may hang with the cluster, and ends nothing of ours.
        sys.stderr.flush()
        os._exit(status)
