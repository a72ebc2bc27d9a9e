"""Which node a worker goes to: never over-committed, best fit.

A node's CPUs can be lent: a worker whose calls all wait for calls of their own uses none, so its cores count as free
for placing others (else a function that calls another would deadlock on a small machine). Memory is never lent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from stoker.types import OptionsSpec

EPSILON_CPUS = 1e-6  # sums of fractions of cores are floating point


@dataclass(frozen=True, slots=True)
class Capacity:
    """Cores and bytes."""

    cpus: float
    memory: int

    def fits(self, within: Capacity) -> bool:
        return self.cpus <= within.cpus + EPSILON_CPUS and self.memory <= within.memory

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(self.cpus + other.cpus, self.memory + other.memory)

    def __sub__(self, other: Capacity) -> Capacity:
        return Capacity(self.cpus - other.cpus, self.memory - other.memory)


NOTHING = Capacity(0.0, 0)


@dataclass(slots=True)
class Node:
    """A machine: what it has, what other programs leave of it, and what our workers hold."""

    id: str
    total: Capacity
    free_of_others: Capacity
    held: dict[str, Capacity] = field(default_factory=dict)
    lent: dict[str, float] = field(default_factory=dict)
    draining: bool = False  # it will be taken away: nothing is placed there
    address: str = "127.0.0.1"  # at which workers of other nodes, and of this one, reach those here

    def free(self) -> Capacity:
        """Return what can be granted now. CPUs may be negative while lent ones are taken back."""
        if self.draining:
            return NOTHING
        cpus = self.free_of_others.cpus - sum(h.cpus for h in self.held.values()) + sum(self.lent.values())
        return Capacity(cpus, self.free_of_others.memory - sum(h.memory for h in self.held.values()))


def needs(options: OptionsSpec) -> Capacity:
    """Return what one worker of a function holds."""
    return Capacity(options.cpu, options.memory or 0)


def place(nodes: Iterable[Node], wanted: Capacity) -> Node | None:
    """Return the node that fits with the least room left over, None if none does now."""
    best: tuple[float, int, str] | None = None
    chosen = None
    for node in nodes:
        free = node.free()
        if wanted.fits(free):
            score = (free.cpus - wanted.cpus, free.memory - wanted.memory, node.id)
            if best is None or score < best:
                best, chosen = score, node
    return chosen


def seats(room: Capacity, wanted: Capacity) -> int:
    """Return how many times this fits into a room."""
    by_cpus = int((room.cpus + EPSILON_CPUS) / wanted.cpus)
    return max(0, min(by_cpus, room.memory // wanted.memory) if wanted.memory else by_cpus)


def place_gang(nodes: Iterable[Node], wanted: Capacity, *, least: int, most: int) -> list[Node]:
    """Return a node for each rank, as many as fit up to ``most``; none at all where ``least`` do not fit now.

    On as few nodes as can be: ranks talk to each other.
    """
    rooms = [(seats(node.free(), wanted), node) for node in nodes]
    count = min(most, sum(room for room, _ in rooms))
    if count < least or count < 1:
        return []
    chosen: list[Node] = []
    while len(chosen) < count:
        left = count - len(chosen)
        enough = [(room, node.id) for room, node in rooms if room >= left]
        room, node_id = min(enough) if enough else max((room, node.id) for room, node in rooms)
        node = next(node for _, node in rooms if node.id == node_id)
        chosen += [node] * min(room, left)
        rooms = [(other_room, other) for other_room, other in rooms if other is not node]
    return chosen


def why_never(nodes: Iterable[Node], wanted: Capacity, *, count: int = 1) -> str:
    """Return why the nodes could never hold ``count`` of this, even empty; an empty text if they could."""
    nodes = list(nodes)
    if not nodes:
        return ""
    if any(wanted.fits(node.total) for node in nodes):
        fit = sum(seats(node.total, wanted) for node in nodes)
        where = "the one node that there is" if len(nodes) == 1 else f"the {len(nodes)} nodes that there are"
        each = shown(wanted)
        return "" if fit >= count else f"{count} ranks with {each} each, of which {fit} fit on {where}"
    most_cpus = max(node.total.cpus for node in nodes)
    most_memory = max(node.total.memory for node in nodes)
    reasons = []
    if wanted.cpus > most_cpus + EPSILON_CPUS:
        reasons.append(f"{wanted.cpus:g} CPUs (the largest node has {most_cpus:g})")
    if wanted.memory > most_memory:
        reasons.append(
            f"{wanted.memory / 2**30:.1f} GiB of memory (the largest node has {most_memory / 2**30:.1f} GiB)"
        )
    if not reasons:
        reasons.append(f"{wanted.cpus:g} CPUs together with {wanted.memory / 2**30:.1f} GiB on one node")
    return " and ".join(reasons)


def shown(wanted: Capacity) -> str:
    """Return a capacity as people read it."""
    memory = f" and {wanted.memory >> 20} MiB" if wanted.memory else ""
    return f"{wanted.cpus:g} {'CPU' if wanted.cpus <= 1 else 'CPUs'}{memory}"
