"""The `Cluster` seam of the Ray engine: nodes, room on them, and agents. It knows nothing of workers, nor of calls.

Everything here is called on the server's event loop and returns at once, but the coroutines; what comes of an order
arrives later as an event, on the same loop, never from inside the call that caused it.

What holds for every implementation:

- `reserve` gives all bundles of a group room, or none: one `Reserved` or `ReserveFailed` follows, unless the group was
  released meanwhile. A group stays until `release`, also when this server is gone and comes back.
- After `start_agent` an agent runs on the node, or is being started, until one `AgentEnded` follows. An agent ends with
  everything below it when its node does.
- `ClusterLost` says that nothing can be asked for until `ClusterBack`; what runs, runs on. `ClusterBack` names the
  groups that are still there, then a `NodesSeen` follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Room:
    """A piece of a node: cores, bytes, GPUs (whole ones, or a fraction of one), and what else its owner counts.

    ``node`` is the node that it has to be on; where it is empty, any will do.
    """

    cpus: float = 0.0
    memory: int = 0
    gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    node: str = ""


@dataclass(frozen=True)
class ClusterNode:
    """A machine of the cluster, as the cluster counts: what it has, and what is free of that after all groups.

    ``memory`` in bytes. ``draining`` is the Unix time by which the node is to be left, 0 where it is not. ``problem``
    says why no agent can run there (no Stoker, another version), empty where one can.
    """

    id: str
    address: str
    cpus: float
    memory: int
    cpus_free: float
    memory_free: int
    gpus: float = 0.0
    gpus_free: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    resources_free: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    draining: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class AgentOrder:
    """What an agent on a node is started with. ``token`` and ``fingerprint`` never stand on a command line.

    ``server``: ``stoker://HOST:PORT``. ``grace``: seconds without a server after which it ends everything.
    """

    node: str
    server: str
    token: str = field(repr=False)
    fingerprint: str = ""
    grace: float = 0.0
    cpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True)
class NodesSeen:
    """All nodes that are there now; one that was named before and is not any more is dead.

    ``adds_nodes``: the cluster adds some by itself for what waits, as far as is known.
    """

    nodes: list[ClusterNode]
    adds_nodes: bool = True


@dataclass(frozen=True)
class Reserved:
    """A group has its room. ``devices`` names each bundle's GPUs, as ``CUDA_VISIBLE_DEVICES`` wants them."""

    group: str
    nodes: list[str]
    devices: list[list[str]]


@dataclass(frozen=True)
class ReserveFailed:
    """A group has no room, and waits for none."""

    group: str
    reason: str


LAST_LINES = ". Its last lines:\n"  # parts, in the reason for an agent's end, the sentence from what it wrote


@dataclass(frozen=True)
class AgentEnded:
    """An agent is gone, or could not be started."""

    node: str
    reason: str


@dataclass(frozen=True)
class ClusterLost:
    """The cluster does not answer."""

    reason: str


@dataclass(frozen=True)
class ClusterBack:
    """The cluster answers again, and has these groups of ours, with their rooms in order."""

    groups: dict[str, list[Room]]


ClusterEvent: TypeAlias = NodesSeen | Reserved | ReserveFailed | AgentEnded | ClusterLost | ClusterBack

ClusterListener: TypeAlias = Callable[[ClusterEvent], None]


class Cluster(Protocol):
    """See the module."""

    @property
    def address(self) -> str:
        """Where the nodes reach this machine; known once `start_up` has returned."""

    @property
    def place(self) -> str:
        """Where the cluster is: its head's HOST:PORT, once `start_up` has returned."""

    def set_listener(self, listener: ClusterListener) -> None:
        """Deliver events to this callback from now on; set once, before `start_up`."""

    async def start_up(self) -> None:
        """Reach the cluster; `ClusterBack` and the first `NodesSeen` have been delivered when it returns.

        Raises:
            ConnectionFailed: nothing answers there; `VersionMismatch` if it is another Ray or Python.
            PermissionDenied: the cluster wants a token, and has not been given the right one.
        """

    async def shut_down(self) -> None:
        """End every agent and give every group back; returns when they are gone."""

    async def abandon(self) -> None:
        """Leave agents and groups to another server."""

    def reserve(self, group: str, rooms: list[Room], *, patience: float) -> None:
        """Ask for room, all or none, for at most ``patience`` seconds. ``group`` is a name of the caller's own."""

    def release(self, group: str) -> None:
        """Give a group back, or withdraw it; one that is not there is no error."""

    def demand(self, rooms: list[Room]) -> None:
        """Say what waits for room that no node has, in place of what was said before: nodes may be added for it."""

    def start_agent(self, order: AgentOrder) -> None:
        """Start an agent; where one of this server runs on the node already, it stays."""

    def stop_agent(self, node: str) -> None:
        """End an agent with everything below it."""
