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

    def free(self) -> Capacity:
        """Return what can be granted now. CPUs may be negative while lent ones are taken back."""
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


def why_never(nodes: Iterable[Node], wanted: Capacity) -> str:
    """Return why no node could ever hold this, even empty; an empty text if one could."""
    nodes = list(nodes)
    if not nodes or any(wanted.fits(node.total) for node in nodes):
        return ""
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
