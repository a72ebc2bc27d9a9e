"""The Ray engine, on the server's side: nodes and room come from a cluster, workers from an agent on each node.

It speaks `Engine` for many nodes. What speaks Ray is behind `Cluster`, in a process of its own. The agents connect to
the server's TCP door, and the server hands their connections over, as with the local engine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stoker.engine.agent_node import EPSILON_CPUS, AgentNode, refused
from stoker.engine.base import (
    AgentLink,
    Bundle,
    Event,
    Grant,
    GrowthChanged,
    Listener,
    NodeChanged,
    NodeDraining,
    NodeGone,
    NodeInfo,
    Outage,
    WorkerSpec,
    called,
)
from stoker.engine.ray import cluster as c
from stoker.engine.ray.groups import Group, Groups, grant_name, group_name
from stoker.engine.ray.growth import growth
from stoker.engine.ray.merging import merged
from stoker.engine.ray.owner import NODES_FILE
from stoker.errors import ConnectionFailed, StokerError
from stoker.protocol import messages as m
from stoker.transport.addresses import Address
from stoker.types import Growth, ImageSpec

RESERVE_SECONDS = 10.0  # for the cluster to give the room that it said was free
AGENT_GRACE_SECONDS = 600.0  # without a server; it may be upgraded meanwhile, what runs goes on running
DEMAND_SHOWN = 4  # where nobody adds nodes it is for people who look; each takes room that is free for a moment
RESTART_FIRST_SECONDS = 0.5
RESTART_LAST_SECONDS = 30.0
WATCH_SECONDS = 1.0
LATE_SECONDS = 1.0  # so much later than it should the watch runs on a loop that was held up
STOP_SLACK_SECONDS = 10.0  # past the grace of workers, for agents to say that all has ended
_OF_WORKERS = (m.WorkerStarted, m.StartFailed, m.WorkerExited)
ANYWHERE = frozenset({"0.0.0.0", "::"})
log = logging.getLogger("stoker.engine")


@dataclass
class RayNode:
    """One node: as the cluster sees it, and as its agent does."""

    agent: AgentNode
    seen: c.ClusterNode | None = None
    state: m.NodeState | None = None  # the first of this connection, until the node has joined
    early: list[Any] = field(default_factory=list)  # what the agent said since: it is about what joins then
    told: NodeInfo | None = None  # what the core knows of it; None while it has not joined
    heard_at: float = 0.0
    drains: bool = False
    delay: float = RESTART_FIRST_SECONDS
    problem: str = ""
    host: str = ""  # the machine's name, once its agent has said it
    restart: asyncio.TimerHandle | None = None


@dataclass(frozen=True)
class Waiting:
    """A start that waits for its room."""

    node: str
    grant: Grant
    spec: WorkerSpec


@dataclass
class Door:
    """Where agents reach the server, and what they show there."""

    address: Address
    fingerprint: str
    token: Callable[[str], str] = field(repr=False)


class RayEngine:
    """See the module, and `stoker.engine.base.Engine`."""

    name = "ray"
    growth = Growth.BY_ITSELF  # until the nodes are known that there are

    def __init__(self, cluster: c.Cluster, *, state_dir: Path, lease: float) -> None:
        """``lease``: seconds for which nothing may be heard of a node before its workers count as lost."""
        self._cluster = cluster
        self._lease = lease
        self._kept = state_dir / NODES_FILE
        self._expected = set(_read(self._kept))
        self._door = Door(Address("", 0), "", lambda node: "")
        self._listener: Listener = lambda event: None
        self._nodes: dict[str, RayNode] = {}
        self._groups = Groups()
        self._left: dict[str, list[c.Room]] = {}  # groups of an earlier server, until it is known whose they are
        self._left_since = 0.0
        self._waiting: dict[str, Waiting] = {}
        self._links: dict[AgentLink, RayNode] = {}
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._watching: asyncio.Task[None] | None = None
        self._is_up = False
        self._is_ending = False
        self._lost = ""
        self._lost_at: float | None = None  # when a node was seen to be gone last
        self._adds_nodes = True

    @property
    def trouble(self) -> str:
        return self._lost

    @property
    def place(self) -> str:
        return self._cluster.place

    def set_listener(self, listener: Listener) -> None:
        self._listener = listener

    def open_to_agents(self, address: Address, fingerprint: str, token: Callable[[str], str]) -> None:
        self._door = Door(address, fingerprint, token)

    async def start_up(self) -> None:
        self._cluster.set_listener(self._on_cluster)
        await self._cluster.start_up()
        self._is_up = True
        self._watching = asyncio.create_task(self._watch(), name="nodes")

    async def shut_down(self, *, grace: float = 5.0) -> None:
        if not self._is_up:
            await self.abandon()  # what an earlier server left is for the next one, which may find the cluster
            return
        await self._stop_watching()
        stops = [self._stop_agent(node, grace) for node in self._nodes.values() if node.agent.link is not None]
        await asyncio.gather(*stops)
        await self._cluster.shut_down()
        for node in self._nodes.values():
            self._lose_all(node, "stopped", "the server stopped")
            node.told = None
        self._kept.unlink(missing_ok=True)

    async def _stop_agent(self, node: RayNode, grace: float) -> None:
        try:
            stopping = node.agent.ask("stop", {"term": node.agent.term, "grace": grace})
            await asyncio.wait_for(stopping, grace + STOP_SLACK_SECONDS)
        except (StokerError, TimeoutError) as error:
            log.warning("the agent of node %s did not say that it has ended everything: %r", node.agent.node, error)

    async def abandon(self) -> None:
        await self._stop_watching()
        await self._cluster.abandon()

    async def _stop_watching(self) -> None:
        self._is_ending = True
        for node in self._nodes.values():
            if node.restart is not None:
                node.restart.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    # Agents

    def attach(self, link: AgentLink, hello: m.Hello, *, term: int) -> None:
        node = self._node(hello.name)
        if node.agent.link is not None:
            self._links.pop(node.agent.link, None)
        node.agent.attach(link, term=term)
        node.state, node.heard_at, node.delay, node.problem = None, self._now(), RESTART_FIRST_SECONDS, ""
        node.early.clear()
        self._links[link] = node
        self._keep_nodes()

    def detach(self, link: AgentLink) -> None:
        node = self._links.pop(link, None)
        if node is not None:
            node.state = None
            node.agent.detach(link)

    def deliver(self, link: AgentLink, message: Any) -> bool:
        node = self._links.get(link)
        if node is None:
            return True  # of a connection that another one has replaced
        node.heard_at = self._now()
        if isinstance(message, m.Beat):
            node.agent.send(m.Beat(message.number, self._lease))
            return True
        if not isinstance(message, m.NodeState):
            if node.state is not None and isinstance(message, _OF_WORKERS):
                node.early.append(message)
                return True
            return node.agent.deliver(message)
        if node.agent.state is None:
            node.state = message
            node.early.clear()
            self._join(node)
        return True

    def _join(self, node: RayNode) -> None:
        """Have a node join whose agent has reported, once the cluster has named it too."""
        state, node.state = node.state, None
        if state is None or node.seen is None:
            node.state = state
            return
        node.host = state.labels.get("host", "")
        node.agent.joined(state, lambda: self._told(node), new_grant=f"{self._run}-a")
        self._expected.discard(node.agent.node)
        self._settle_debts(node)
        if node.seen.draining:
            self._tell_draining(node)
        self._advance()
        self._give_up_leftovers()
        early, node.early = node.early, []
        for message in early:
            node.agent.deliver(message)

    def _told(self, node: RayNode) -> NodeInfo:
        self._regain(node)  # first: what runs there is no room that others have
        node.told = self._info(node)
        return node.told

    def _regain(self, node: RayNode) -> None:
        """Hold the room of what runs there, as far as the cluster has kept it; the rest is a debt."""
        for grant in node.agent.grant_of.values():
            node.agent.grants[grant.id] = grant
            if self._groups.of(grant.id) is None and not self._groups.take_back(grant.id):
                self._regain_left(grant)

    def _regain_left(self, grant: Grant) -> None:
        """Take over an earlier server's group, if there: whole, since what nobody claims of it is free for others."""
        name = group_name(grant.id)
        if name in self._left:
            self._groups.add_left(name, self._left.pop(name))
            self._groups.take_back(grant.id)

    def _give_up_leftovers(self) -> None:
        """Give back what nobody claims: once all nodes have said what they run, or were waited for long enough."""
        is_over = not self._expected or self._now() - self._left_since > self._lease
        if is_over and self._left and not self._lost:
            for name in self._left:
                self._cluster.release(name)
            self._left.clear()

    # Room

    def nodes(self) -> list[NodeInfo]:
        return self._infos({""})

    def _infos(self, names: set[str]) -> list[NodeInfo]:
        """Return what the nodes of these names have, all of them for an empty one."""
        nodes = self._nodes.values() if "" in names else [self._nodes[name] for name in names & self._nodes.keys()]
        return [self._info(node) for node in nodes if node.told is not None]

    def expected_nodes(self) -> list[str]:
        return sorted(self._expected)

    def outages(self) -> list[Outage]:
        found = [Outage("", "", self._lost)] if self._lost else []
        for name, node in self._nodes.items():
            if node.seen is not None and node.told is None:
                found.append(Outage(name, node.seen.address, self._why_away(node)))
        return found

    def _why_away(self, node: RayNode) -> str:
        if problem := node.seen.problem if node.seen is not None else "":
            return problem
        if node.problem:
            return f"its agent is started again: {node.problem}"
        if node.heard_at:
            return f"nothing was heard of it for {self._now() - node.heard_at:.0f} s"
        return "its agent is being started"

    def reserve(self, bundles: list[Bundle]) -> list[Grant] | None:
        if self._lost:
            return None
        name = f"{self._run}-{next(self._numbers)}"
        infos = {info.node: info for info in self._infos({bundle.node for bundle in bundles})}
        taken: dict[str, list[c.Room]] = {}
        grants, rooms, held = [], [], []
        for index, bundle in enumerate(bundles):
            places = infos.values() if not bundle.node else [infos[bundle.node]] if bundle.node in infos else []
            node = self._fitting(bundle, places, taken)
            if node is None:
                return None
            grant = Grant(grant_name(name, index), node.agent.node, bundle.cpus, bundle.memory)
            room = c.Room(bundle.cpus, bundle.memory, bundle.gpus, bundle.resources, node.agent.node)
            if self._fits_beside(node, [*taken.get(room.node, []), room]):
                rooms.append(room)
                held.append(grant.id)
            taken.setdefault(room.node, []).append(room)
            grants.append(grant)
        for grant in grants:
            self._nodes[grant.node].agent.grants[grant.id] = grant
        if rooms:
            self._groups.add(Group(name, rooms, held))
            self._cluster.reserve(name, rooms, patience=RESERVE_SECONDS)
        return grants

    def _fitting(self, bundle: Bundle, infos: Iterable[NodeInfo], taken: dict[str, list[c.Room]]) -> RayNode | None:
        """Return the node for a bundle among those that it may be on: the one with the least room left over."""
        best: tuple[float, str] | None = None
        for info in infos:
            if not bundle.labels.items() <= info.labels.items():
                continue
            here = taken.get(info.node, [])
            left = info.cpus_free - sum(room.cpus for room in here) - bundle.cpus
            memory = info.memory_free - sum(room.memory for room in here) - bundle.memory
            others = self._can_hold(self._nodes[info.node], [*here, _room(bundle)])
            if left >= -EPSILON_CPUS and memory >= 0 and others and (best is None or (left, info.node) < best):
                best = (left, info.node)
        return self._nodes[best[1]] if best is not None else None

    def _can_hold(self, node: RayNode, rooms: list[c.Room]) -> bool:
        if node.seen is None or node.seen.draining or node.agent.state is None:
            return (
                False  # where no agent would start anything, room asked for would only be given back, again and again
            )
        if not any(room.gpus or room.resources for room in rooms):
            return True
        free = self._groups.free(node.seen, now=self._now())
        names = {name for room in rooms for name in room.resources}
        wanted = {name: sum(room.resources.get(name, 0.0) for room in rooms) for name in names}
        if any(free.resources.get(name, 0.0) + EPSILON_CPUS < amount for name, amount in wanted.items()):
            return False
        return sum(room.gpus for room in rooms) <= free.gpus + EPSILON_CPUS

    def _fits_beside(self, node: RayNode, rooms: list[c.Room]) -> bool:
        """Tell whether the cluster has this room beside our groups; else it is in them: cores that are lent."""
        assert node.seen is not None
        free = self._groups.free(node.seen, now=self._now())
        return sum(room.cpus for room in rooms) <= free.cpus + EPSILON_CPUS

    def release(self, grant: Grant) -> None:
        node = self._nodes.get(grant.node)
        if node is not None:
            node.agent.grants.pop(grant.id, None)
        group = self._groups.give_back(grant.id, now=self._now())  # of a node that died, too: others may share it
        if group is not None:
            self._cluster.release(group.name)

    def lend(self, grant: Grant, *, lent: bool) -> None:
        node = self._nodes.get(grant.node)
        if node is not None:
            node.agent.lend(grant, lent=lent)

    def demand(self, bundles: list[Bundle]) -> None:
        told = bundles if self._adds_nodes else bundles[:DEMAND_SHOWN]
        self._cluster.demand([_room(bundle) for bundle in told])

    # Workers

    def start(self, grant: Grant, spec: WorkerSpec) -> None:
        self._waiting[spec.worker] = Waiting(grant.node, grant, spec)
        asyncio.get_running_loop().call_soon(self._advance, [spec.worker])

    def stop(self, worker: str, *, grace: float, reason: str = "") -> None:
        waiting = self._waiting.pop(worker, None)
        if waiting is not None:
            self._refuse(waiting, reason or "it was called off")
            return
        for node in self._nodes.values():
            node.agent.stop(worker, grace=grace, reason=reason)

    def _advance(self, workers: list[str] | None = None) -> None:
        """Order the starts whose room is there: of these workers, or of all."""
        for worker in list(self._waiting) if workers is None else workers:
            waiting = self._waiting.get(worker)
            if waiting is None:
                continue
            node, group = self._nodes.get(waiting.node), self._groups.of(waiting.grant.id)
            if group is not None and group.failure:
                del self._waiting[worker]
                self._refuse(waiting, f"The cluster has no room for it just now: {group.failure}")
            elif node is None or node.agent.state is None:
                del self._waiting[worker]
                self._refuse(waiting, "The node's agent is away.")
            elif group is None or group.is_ready:
                del self._waiting[worker]
                grant = waiting.grant
                if group is not None and (devices := group.devices.get(grant.id)):
                    grant = node.agent.grants[grant.id] = replace(grant, devices=devices)
                node.agent.send(node.agent.start(grant, waiting.spec))

    def _refuse_unconfirmed(self) -> None:
        """Refuse the starts whose room a cluster that is away has not confirmed: nobody knows when it will."""
        for worker, waiting in list(self._waiting.items()):
            group = self._groups.of(waiting.grant.id)
            if group is not None and not group.is_ready:
                del self._waiting[worker]
                self._refuse(waiting, self._lost)

    def _refuse(self, waiting: Waiting, why: str) -> None:
        agent = self._node(waiting.node).agent
        agent.starting.add(waiting.spec.worker)
        asyncio.get_running_loop().call_soon(agent.on_start_failed, refused(waiting.spec.worker, why))

    # Questions

    async def flush_logs(self) -> None:
        await asyncio.gather(*(node.exchange(m.FlushLogs(node.number())) for node in self._connected()))

    async def build(self, image: ImageSpec, *, worker: str = "") -> dict[str, Any]:
        nodes = self._connected()
        built = await asyncio.gather(*(n.exchange(m.BuildImage(n.term, n.number(), image, worker)) for n in nodes))
        result: dict[str, Any] = built[0]
        return result

    async def ask(self, verb: str, params: dict[str, Any] | None = None) -> Any:
        nodes = self._connected()
        answers = await asyncio.gather(*(node.ask(verb, params) for node in nodes), return_exceptions=True)
        return merged(verb, {node.node: answer for node, answer in zip(nodes, answers, strict=True)}, params or {})

    def _connected(self) -> list[AgentNode]:
        nodes = [node.agent for node in self._nodes.values() if node.agent.state is not None]
        if not nodes:
            problems = [f"{name}: {node.problem}" for name, node in self._nodes.items() if node.problem]
            why = f" {self._lost}" if self._lost else f" {'; '.join(problems)}" if problems else ""
            raise ConnectionFailed(f"No node of the Ray cluster has an agent that answers.{why}")
        return nodes

    # What the cluster tells

    def _on_cluster(self, event: c.ClusterEvent) -> None:
        match event:
            case c.NodesSeen():
                self._on_nodes(event.nodes, adds_nodes=event.adds_nodes)
            case c.Reserved():
                self._on_reserved(event)
            case c.ReserveFailed():
                self._on_reserve_failed(event)
            case c.AgentEnded():
                self._on_agent_ended(event)
            case c.ClusterLost():
                self._lost = f"The Ray cluster does not answer: {event.reason}"
                log.warning("%s; what runs, runs on, and nothing is said until it is back", self._lost)
                self._refuse_unconfirmed()
            case c.ClusterBack():
                self._on_back(event.groups)

    def _on_nodes(self, nodes: list[c.ClusterNode], *, adds_nodes: bool) -> None:
        self._adds_nodes = adds_nodes
        there = {one.id for one in nodes}
        for one in nodes:
            node = self._node(one.id)
            is_new = node.seen is None
            is_mended = node.seen is not None and bool(node.seen.problem) and not one.problem
            node.seen = one
            if is_new or is_mended:
                self._start_agent(node)
                self._join(node)
            elif one.draining:
                self._tell_draining(node)
        for name in [name for name, node in self._nodes.items() if name not in there]:
            self._die(self._nodes.pop(name))
        for name in self._expected - there:
            self._expected.discard(name)
            self._tell(NodeGone(name, "it is not in the cluster any more"))
        self._give_up_leftovers()
        self._tell_changes()

    def _on_reserved(self, event: c.Reserved) -> None:
        group = self._groups.get(event.group)
        if group is not None:
            group.is_ready = True
            group.devices = dict(zip(group.order, event.devices, strict=False))
            self._advance([one.spec.worker for one in self._waiting.values() if one.grant.id in group.grants])

    def _on_reserve_failed(self, event: c.ReserveFailed) -> None:
        group = self._groups.get(event.group)
        if group is None:
            return
        group.failure = event.reason
        self._advance()
        if group.is_ready:
            log.warning("the room of %s was not had again: %s", event.group, event.reason)
        self._groups.drop(group, now=self._now())
        self._tell_changes()

    def _on_agent_ended(self, event: c.AgentEnded) -> None:
        node = self._nodes.get(event.node)
        if node is None or self._is_ending:
            return
        node.problem = reason = event.reason.partition(c.LAST_LINES)[0]  # the rest is for the log alone
        log.warning("the agent of node %s ended: %s", self._called(node), event.reason)
        if node.agent.link is not None:
            self.detach(node.agent.link)
        self._lose_all(node, "unknown", f"the agent of node {self._called(node)} ended: {reason}")
        delay, node.delay = node.delay, min(RESTART_LAST_SECONDS, node.delay * 2)
        node.restart = asyncio.get_running_loop().call_later(delay, self._start_agent, node)

    def _on_back(self, groups: dict[str, list[c.Room]]) -> None:
        if self._lost:
            log.info("the Ray cluster answers again")
        self._lost = ""
        ours = set(self._groups.names())
        self._left = {name: rooms for name, rooms in groups.items() if name not in ours}
        self._left_since = self._now()
        for name in ours - groups.keys():
            group = self._groups.get(name)
            if group is not None and group.is_ready:
                log.warning("the cluster has lost the room of %s: asked for again", name)
                self._cluster.reserve(name, group.rooms, patience=RESERVE_SECONDS)

    def _start_agent(self, node: RayNode) -> None:
        node.restart = None
        if node.seen is None or self._is_ending:
            return
        if node.seen.problem:
            node.problem = node.seen.problem
            log.warning("no agent can run on node %s: %s", node.agent.node, node.problem)
            return
        self._cluster.start_agent(
            c.AgentOrder(
                node=node.agent.node,
                server=str(self._reachable()),
                token=self._door.token(node.agent.node),
                fingerprint=self._door.fingerprint,
                grace=AGENT_GRACE_SECONDS,
                cpus=node.seen.cpus,
                memory=node.seen.memory,
            )
        )

    def _reachable(self) -> Address:
        """Return where nodes reach the door: one at every address of this machine, at that which the cluster knows."""
        address = self._door.address
        return Address(self._cluster.address, address.port) if address.host in ANYWHERE else address

    def _tell_draining(self, node: RayNode) -> None:
        if not node.drains and node.told is not None and node.seen is not None:
            node.drains = True
            seconds = max(0.0, node.seen.draining - time.time())
            self._tell(NodeDraining(node.agent.node, seconds, "the Ray cluster takes its node away"))

    def _die(self, node: RayNode) -> None:
        """A node is not in the cluster any more: all that ran there has ended with it."""
        self._lost_at = self._now()
        if node.restart is not None:
            node.restart.cancel()
        if node.agent.link is not None:
            self._links.pop(node.agent.link, None)
            node.agent.link.close()
            node.agent.detach(node.agent.link)
        self._lose_all(node, "unknown", f"node {self._called(node)} died or left the cluster")
        if node.told is not None:
            self._tell(NodeGone(node.agent.node, f"node {self._called(node)} died or left the cluster"))
        self._keep_nodes()

    def _lose_all(self, node: RayNode, cause: str, detail: str) -> None:
        for worker in list(node.agent.up):
            node.agent.end(worker, cause, detail)
        for waiting in [one for one in self._waiting.values() if one.node == node.agent.node]:
            del self._waiting[waiting.spec.worker]
            node.agent.starting.add(waiting.spec.worker)
        for worker in list(node.agent.starting):
            node.agent.on_start_failed(refused(worker, f"It was not started: {detail}."))

    # What happens by itself

    async def _watch(self) -> None:
        before = self._now()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = self._now()
            late, before = now - before > WATCH_SECONDS + LATE_SECONDS, now
            for node in list(self._nodes.values()):
                # After a stop of this process what nodes have said meanwhile is still to be read.
                if not late and node.told is not None and now - node.heard_at > self._lease:
                    self._lose(node)
                self._settle_debts(node)
            self._give_up_leftovers()
            self._tell_changes()

    def _settle_debts(self, node: RayNode) -> None:
        """Ask for room for what runs without, once there is some: on borrowed cores, or on a node that was away."""
        if self._lost or node.seen is None:
            return
        for grant in node.agent.grants.values():
            if self._groups.of(grant.id) is not None:
                continue
            room = _room_of(grant)
            if self._fits_beside(node, [room]):
                name = f"{self._run}-{next(self._numbers)}"
                self._groups.add(Group(name, [room], [grant.id], is_ready=True))
                self._cluster.reserve(name, [room], patience=RESERVE_SECONDS)

    def _lose(self, node: RayNode) -> None:
        """Give up on a node that was silent for its lease. It may come back, with what runs there still."""
        node.told = None
        node.drains = False
        for waiting in [one for one in self._waiting.values() if one.node == node.agent.node]:
            del self._waiting[waiting.spec.worker]
            self._refuse(waiting, "Its node does not answer.")
        if node.agent.link is not None:
            link = node.agent.link
            self.detach(link)
            link.close()
        self._keep_nodes()
        self._tell(NodeGone(node.agent.node, f"nothing was heard of node {self._called(node)} for {self._lease:.0f} s"))

    def _tell_changes(self) -> None:
        for node in list(self._nodes.values()):
            if node.told is not None and (info := self._info(node)) != node.told:
                node.told = info
                self._tell(NodeChanged(info))
        arriving = (node.told is None and not node.problem for node in self._nodes.values())
        now = growth(adds_nodes=self._adds_nodes, lost_at=self._lost_at, arriving=arriving, now=self._now())
        if now is not self.growth:
            self.growth = now
            self._tell(GrowthChanged(now))

    def _info(self, node: RayNode) -> NodeInfo:
        assert node.seen is not None
        held, now = node.agent.held(), self._now()
        free = self._groups.free(node.seen, now=now)
        # Our groups hold room of which lent cores can be granted again; borrowed grants have no group of their own, and
        # hold memory all the same.
        reserved = self._groups.reserved(node.agent.node)
        labels = node.agent.state.labels if node.agent.state is not None else {}
        return NodeInfo(
            node=node.agent.node,
            cpus=node.seen.cpus,
            memory=node.seen.memory,
            cpus_free=free.cpus + reserved.cpus - held.cpus,
            memory_free=free.memory + reserved.memory - held.memory,
            labels={**labels, **node.seen.labels},
            address=node.seen.address,
        )

    def _node(self, name: str) -> RayNode:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = RayNode(AgentNode(name, tell=self._tell))
        return node

    def _called(self, node: RayNode) -> str:
        others = {name: other.host for name, other in self._nodes.items()}
        return called(node.agent.node, {**others, node.agent.node: node.host})

    def _keep_nodes(self) -> None:
        """Write down where workers may run, for the next server to wait for."""
        # One that is away for a moment has workers all the same: what they run must not be run beside them.
        names = [name for name, node in self._nodes.items() if node.agent.link is not None or node.told is not None]
        draft = self._kept.with_suffix(".partial")
        try:
            draft.write_text(json.dumps(sorted({*names, *self._expected})))
            draft.replace(self._kept)
        except OSError as error:  # the next server waits for nobody then: what runs twice is settled once
            log.error("%s could not be written: %s", self._kept, error)

    def _tell(self, event: Event) -> None:
        self._listener(event)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _room_of(grant: Grant) -> c.Room:
    return c.Room(grant.cpus, grant.memory, float(len(grant.devices)), node=grant.node)


def _room(bundle: Bundle) -> c.Room:
    return c.Room(bundle.cpus, bundle.memory, bundle.gpus, bundle.resources, bundle.node)


def _read(path: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads(path.read_text())]
    except (OSError, ValueError):
        return []
