"""What the server's process and the bridge say to each other: one JSON line each, over a socket pair.

Events of the `Cluster` seam travel as they are; the orders and answers that only these two know are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from stoker.engine.ray import cluster
from stoker.engine.ray.cluster import Room


@dataclass(frozen=True)
class Reach:
    """The first order: which cluster, and for which server."""

    address: str
    owner: str


@dataclass(frozen=True)
class Reserve:
    group: str
    rooms: list[cluster.Room]
    patience: float


@dataclass(frozen=True)
class Release:
    group: str


@dataclass(frozen=True)
class Demand:
    rooms: list[cluster.Room]


@dataclass(frozen=True)
class StartAgent:
    order: cluster.AgentOrder


@dataclass(frozen=True)
class StopAgent:
    node: str


@dataclass(frozen=True)
class EndAll:
    """End every agent and remove every group of this server."""


@dataclass(frozen=True)
class Reached:
    """The cluster answers, and has these groups and, on these nodes, agents of ours.

    ``address``: where its nodes reach this machine; ``cluster``: where its head is.
    """

    address: str
    cluster: str
    groups: dict[str, list[Room]]
    agents: list[str]


@dataclass(frozen=True)
class Refused:
    """The cluster cannot be used; ``error`` names one of `stoker.errors`."""

    error: str
    reason: str


@dataclass(frozen=True)
class AgentRuns:
    """An order to start an agent was carried out, or one runs there already."""

    node: str


@dataclass(frozen=True)
class AllEnded:
    """The answer to `EndAll`; ``left`` says what could not be ended."""

    left: list[str]


_OWN: tuple[type, ...] = (
    Reach,
    Reserve,
    Release,
    Demand,
    StartAgent,
    StopAgent,
    EndAll,
    Reached,
    Refused,
    AgentRuns,
    AllEnded,
)
_EVENTS: tuple[type, ...] = (cluster.NodesSeen, cluster.Reserved, cluster.ReserveFailed, cluster.AgentEnded)
_BY_NAME = {kind.__name__: kind for kind in (*_OWN, *_EVENTS)}


def encode(message: Any) -> bytes:
    """Return the line of a message, its end included."""
    return msgspec.json.encode([type(message).__name__, message]) + b"\n"


def decode(line: bytes) -> Any:
    """Return the message of a line."""
    name, body = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
    return msgspec.json.decode(body, type=_BY_NAME[name])
