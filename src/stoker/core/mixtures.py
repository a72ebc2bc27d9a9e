"""What calls take up of a worker, for classes that run some of their methods in batches and others call by call. Pure.

A worker runs so many things at once as its class has ``concurrency``: a batch of one method, or one call of a method
that takes no batches. It begins with the oldest call that it holds. Is that one of a batch, others of the same method
go with it, wherever they stand.

So a call of a batch takes up a part of one of these places, any other call a whole one. Both are counted in the same
units: a place is as many as the largest batch holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from stoker.types import FunctionSpec

if TYPE_CHECKING:
    from stoker.core.calls import Call


class Mixture:
    """See the module. ``sizes`` is how many calls of each method run together; 0 for those that take no batches."""

    __slots__ = ("_places", "_sizes", "_units")

    def __init__(self, sizes: Mapping[str, int], *, places: int) -> None:
        whole = max(sizes.values())
        self._sizes = dict(sizes)
        self._places = places
        self._units = {method: whole // size if size else whole for method, size in sizes.items()}

    def units(self, call: Call) -> int:
        """Return how much of a worker a call takes up. One that names no method counts as one of a batch."""
        return self._units.get(call.method, 1)

    def of(self, calls: Iterable[Call]) -> int:
        return sum(map(self.units, calls))

    def waiting(self, by_method: Mapping[str, int]) -> int:
        """Return the units of so many calls of each method."""
        return sum(self._units.get(method, 1) * count for method, count in by_method.items())

    def begun(self, leased: Iterable[Call]) -> list[Call]:
        """Return those of a worker's calls, oldest first, that it is taken to have begun."""
        found: list[Call] = []
        free: dict[str, int] = {}  # what is left in the batches that run
        places = self._places
        for call in leased:
            if free.get(call.method):
                free[call.method] -= 1
            elif places:
                places -= 1
                free[call.method] = max(0, self._sizes.get(call.method, 1) - 1)
            else:
                continue
            found.append(call)
        return found


def mixture_of(spec: FunctionSpec) -> Mixture | None:
    """Return how the methods of a class share its workers; None where they all take up the same."""
    if spec.options.batch is None or len(spec.methods) < 2:
        return None
    sizes = {name: method.batch.max_size if method.batch is not None else 0 for name, method in spec.methods.items()}
    return Mixture(sizes, places=spec.options.concurrency)
