"""Agents on the cluster's nodes: one detached, named actor each, which runs the agent below it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stoker._version import __version__
from stoker.engine.ray.bridge import node_actor
from stoker.engine.ray.bridge.threads import in_thread
from stoker.engine.ray.cluster import AgentEnded, AgentOrder
from stoker.engine.ray.wire import AgentRuns

START_SECONDS = 60.0  # for an actor and a look at its Stoker; on a node that swaps it may take as long
STOP_SECONDS = 40.0
SAID_SECONDS = 5.0  # between an agent's end and our hearing of it
LOOK_SECONDS = 0.1
log = logging.getLogger("stoker.engine.ray")


def arguments_of(order: AgentOrder) -> list[str]:
    """Return the agent's own arguments; the guard adds the directories of the node."""
    return ["--server", order.server, "--node", order.node, "--mode", "persistent", "--grace", str(order.grace)]


def environment_of(order: AgentOrder) -> dict[str, str]:
    """Return what no command line may show, and what the server counts the node as."""
    return {
        "STOKER_AGENT_TOKEN": order.token,
        "STOKER_FINGERPRINT": order.fingerprint,
        "STOKER_NODE_CPUS": f"{order.cpus:g}",
        "STOKER_NODE_MEMORY": str(order.memory),
    }


class Agents:
    """See the module."""

    def __init__(self, owner: str, *, say: Callable[[Any], None]) -> None:
        self._owner = owner
        self._prefix = f"stoker-{owner}-agent-"
        self._say = say
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by node, for as long as there is an actor
        self._stops: set[asyncio.Task[None]] = set()

    def find(self) -> list[str]:
        """Return the nodes where an actor of ours is; blocks until the head answers."""
        return [name.removeprefix(self._prefix) for name in list_named_actors() if name.startswith(self._prefix)]

    def watch(self, nodes: list[str]) -> None:
        """Hear of the ends of agents that an earlier bridge has started."""
        for node in nodes:
            self._follow(node, None)

    def start(self, order: AgentOrder) -> None:
        if order.node in self._tasks:
            self._tasks[order.node].cancel()
        self._follow(order.node, order)

    def stop(self, node: str) -> None:
        task = asyncio.create_task(self._stop(node), name=f"stop agent {node}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    async def end_all(self) -> list[str]:
        """End all agents; returns a line for each that stays."""
        nodes = {*await in_thread(self.find), *self._tasks}
        await asyncio.gather(*(self._stop(node) for node in nodes))
        for node in await in_thread(self.find):
            await in_thread(self._kill, node)
        return [f"agent on node {node}" for node in await in_thread(self.find)]

    def _follow(self, node: str, order: AgentOrder | None) -> None:
        task = self._tasks[node] = asyncio.create_task(self._run(node, order), name=f"agent {node}")
        task.add_done_callback(lambda ended: self._on_done(node, ended))

    def _on_done(self, node: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(node) is task:
            del self._tasks[node]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the agent on node %s", node, exc_info=error)

    async def _run(self, node: str, order: AgentOrder | None) -> None:
        """Start an agent, if there is an order, and wait for its end."""
        try:
            reason = await self._start(order) if order is not None else ""
            if not reason:
                actor = await in_thread(self._found, node)
                if order is not None:
                    self._say(AgentRuns(node))
                reason = await asyncio.wrap_future(actor.ended.remote().future())
        except ValueError:
            reason = "it is not there any more"
        except TimeoutError:
            reason = f"it could not be started within {START_SECONDS:.0f} s"
        except RayError as error:
            reason = f"its node or the actor that ran it is gone ({_first_line(error)})"
        await in_thread(self._kill, node)
        self._say(AgentEnded(node, reason))

    async def _start(self, order: AgentOrder) -> str:
        """Have the actor start the agent; returns why none runs, empty where one does."""
        spec = {
            "version": __version__,
            "arguments": arguments_of(order),
            "environment": environment_of(order),
        }
        actor = await in_thread(self._actor, order.node)
        answer = await asyncio.wait_for(asyncio.wrap_future(actor.start.remote(spec).future()), START_SECONDS)
        return str(answer.get("problem") or answer.get("ended") or "")

    def _found(self, node: str) -> Any:
        return ray.get_actor(self._prefix + node)

    def _actor(self, node: str) -> Any:
        return (
            ray.remote(node_actor.NodeActor)
            .options(
                name=self._prefix + node,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(self._owner, node)
        )

    async def _stop(self, node: str) -> None:
        """End the agent on a node, also one that is still being started; returns when that has been said."""
        try:
            await asyncio.wait_for(self._stop_actor(node), STOP_SECONDS)
        except RayError:
            pass  # it is gone, which whoever follows it says
        except TimeoutError:
            log.warning("the agent on node %s did not end within %.0f s", node, STOP_SECONDS)
        if task := self._tasks.get(node):
            await asyncio.wait([task], timeout=SAID_SECONDS)

    async def _stop_actor(self, node: str) -> None:
        while True:
            try:
                actor = await in_thread(self._found, node)
                break
            except ValueError:
                if node not in self._tasks:
                    return
                await asyncio.sleep(LOOK_SECONDS)  # it is being made
        await asyncio.wrap_future(actor.stop.remote().future())

    def _kill(self, node: str) -> None:
        try:
            ray.kill(self._found(node))
        except (ValueError, RayError):
            pass  # it is gone


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
