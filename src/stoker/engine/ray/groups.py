"""The books of what this server holds of a cluster: groups of rooms, and what is free beside them.

A grant is given at once, from these books; the cluster confirms its group a moment later, or refuses it, when other
work on it was faster. What the cluster says is free is a little old: what was asked for or given back since is known
here, and counted in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from stoker.engine.ray.cluster import ClusterNode, Room

STALE_SECONDS = 3.0  # for which the cluster may still count as taken what was given back


@dataclass
class Group:
    """Rooms that were asked for together, for these grants in their order. It is given back when all of them are."""

    name: str
    rooms: list[Room]
    grants: list[str]
    is_ready: bool = False
    failure: str = ""
    devices: dict[str, list[str]] = field(default_factory=dict)  # by grant
    given_back: set[str] = field(default_factory=set)  # grants, while others hold the group
    order: list[str] = field(default_factory=list)  # the grants as their rooms were asked for, also those given back


def grant_name(group: str, index: int) -> str:
    """Return the name of the grant of a group's room; `group_name` undoes it."""
    return f"{group}.{index}"


def group_name(grant: str) -> str:
    return grant.rpartition(".")[0]


@dataclass(frozen=True)
class Free:
    """What is left of a node: as the cluster sees it, and with the cores that are lent."""

    cpus: float
    memory: int
    gpus: float
    resources: dict[str, float]


class Tally:
    """The sum of rooms on one node, kept as they come and go: it is asked for with each grant."""

    def __init__(self) -> None:
        self.count = 0
        self.cpus = 0.0
        self.memory = 0
        self.gpus = 0.0
        self.resources: dict[str, float] = {}

    def add(self, room: Room, sign: int = 1) -> None:
        self.count += sign
        self.cpus += sign * room.cpus
        self.memory += sign * room.memory
        self.gpus += sign * room.gpus
        for name, amount in room.resources.items():
            self.resources[name] = self.resources.get(name, 0.0) + sign * amount


class Tallies:
    """The sums of rooms by node."""

    def __init__(self) -> None:
        self._nodes: dict[str, Tally] = {}

    def on(self, node: str) -> Tally:
        return self._nodes.get(node) or Tally()

    def add(self, room: Room) -> None:
        self._nodes.setdefault(room.node, Tally()).add(room)

    def remove(self, room: Room) -> None:
        tally = self._nodes[room.node]
        tally.add(room, -1)
        if not tally.count:  # with it goes what sums of fractions have lost
            del self._nodes[room.node]


class Groups:
    """See the module. Times are the loop's."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._of_grant: dict[str, Group] = {}
        self._ours = Tallies()
        self._returned: deque[tuple[float, Room]] = deque()
        self._stale = Tallies()

    def add(self, group: Group) -> None:
        self._groups[group.name] = group
        group.order = list(group.grants)
        for grant in group.grants:
            self._of_grant[grant] = group
        for room in group.rooms:
            self._ours.add(room)

    def add_left(self, name: str, rooms: list[Room]) -> None:
        """Take over a group of an earlier server, of which nobody has claimed a room yet; see `take_back`."""
        grants = [grant_name(name, index) for index in range(len(rooms))]
        group = Group(name, rooms, [], is_ready=True, given_back=set(grants))
        self.add(group)
        group.order = grants

    def get(self, name: str) -> Group | None:
        return self._groups.get(name)

    def of(self, grant: str) -> Group | None:
        """Return the group of a grant; None for one on borrowed cores."""
        return self._of_grant.get(grant)

    def names(self) -> list[str]:
        return list(self._groups)

    def give_back(self, grant: str, *, now: float) -> Group | None:
        """Note that a grant is held no more; return its group if that was the last one."""
        group = self._of_grant.pop(grant, None)
        if group is None:
            return None
        group.grants.remove(grant)
        if group.grants:
            group.given_back.add(grant)
            return None
        self.drop(group, now=now)
        return group

    def take_back(self, grant: str) -> bool:
        """Have a grant again that was given back, while its group is there because of others; tell whether it was."""
        group = next((one for one in self._groups.values() if grant in one.given_back), None)
        if group is not None:
            group.given_back.discard(grant)
            group.grants.append(grant)
            self._of_grant[grant] = group
        return group is not None

    def drop(self, group: Group, *, now: float) -> None:
        """Forget a group that is given back, or was never had."""
        if self._groups.pop(group.name, None) is None:
            return
        for grant in group.grants:
            self._of_grant.pop(grant, None)
        for room in group.rooms:
            self._ours.remove(room)
            if not group.failure:
                self._returned.append((now + STALE_SECONDS, room))
                self._stale.add(room)

    def free(self, node: ClusterNode, *, now: float) -> Free:
        """Return what others and our groups leave of a node."""
        while self._returned and self._returned[0][0] <= now:
            self._stale.remove(self._returned.popleft()[1])
        ours, stale = self._ours.on(node.id), self._stale.on(node.id)

        def left(total: float, free: float, held: float, returned: float) -> float:
            others = max(0.0, total - free - held - returned)
            return total - others - held

        return Free(
            cpus=left(node.cpus, node.cpus_free, ours.cpus, stale.cpus),
            memory=int(left(node.memory, node.memory_free, ours.memory, stale.memory)),
            gpus=left(node.gpus, node.gpus_free, ours.gpus, stale.gpus),
            resources={
                name: left(
                    node.resources.get(name, 0.0),
                    node.resources_free.get(name, 0.0),
                    ours.resources.get(name, 0.0),
                    stale.resources.get(name, 0.0),
                )
                for name in ours.resources.keys() | node.resources.keys()
            },
        )

    def reserved(self, node: str) -> Room:
        """Return the cores and the memory that our groups hold on a node."""
        ours = self._ours.on(node)
        return Room(ours.cpus, ours.memory, node=node)
