"""Room on the cluster: one detached placement group for each group that the server asks for.

Its bundles are pinned to their nodes by a label, which is hard: a bundle whose node dies is never made elsewhere. A
bundle with GPUs holds an actor as well, because Ray says which devices it gave to nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from stoker.engine.ray.bridge.node_actor import DeviceActor
from stoker.engine.ray.bridge.threads import ended, in_thread
from stoker.engine.ray.cluster import Reserved, ReserveFailed, Room

NODE_LABEL = "ray.io/node-id"
LEAST_MEMORY = 1.0  # bytes: Ray makes no bundle of nothing
DEVICES_SECONDS = 60.0  # for the actor that learns the devices: a process of Python that imports Ray
log = logging.getLogger("stoker.engine.ray")


def bundle_of(room: Room) -> dict[str, float]:
    """Return what Ray calls a bundle; it counts in ten-thousandths."""
    wanted = {"CPU": room.cpus, "memory": float(room.memory), "GPU": room.gpus, **room.resources}
    return {name: amount for name, amount in wanted.items() if amount > 0} or {"memory": LEAST_MEMORY}


def rooms_of(entry: dict[str, Any]) -> list[Room]:
    """Return what a group of Ray's table holds, in the order in which it was asked for."""
    rooms = []
    for index in sorted(entry["bundles"]):
        held = dict(entry["bundles"][index])
        cpus, memory, gpus = (float(held.pop(name, 0.0)) for name in ("CPU", "memory", "GPU"))
        rooms.append(Room(cpus, int(memory), gpus, held, entry["bundles_to_node_id"].get(index, "")))
    return rooms


def selector_of(room: Room) -> dict[str, str]:
    return {NODE_LABEL: room.node} if room.node else {}


async def ready(group: PlacementGroup) -> None:
    """Wait until a group has its room, without a thread or a process for it."""
    await asyncio.wrap_future(group.ready().future())


class Groups:
    """See the module. Orders for one group are carried out one after the other, those for several at once."""

    def __init__(self, owner: str, *, say: Callable[[Any], None]) -> None:
        self._prefix = f"stoker-{owner}-"
        self._say = say
        self._work: dict[str, asyncio.Task[None]] = {}
        self._pinned: dict[str, set[str]] = {}  # the nodes of each group
        self._alive: set[str] | None = None

    def find(self) -> dict[str, list[Room]]:
        """Return ours that are there, by name, with their rooms; blocks until the head answers."""
        found = {}
        for entry in placement_group_table().values():
            if entry["name"].startswith(self._prefix) and entry["state"] != "REMOVED":
                found[entry["name"].removeprefix(self._prefix)] = rooms_of(entry)
        self._pinned.update({name: {room.node for room in rooms} - {""} for name, rooms in found.items()})
        return found

    def reserve(self, group: str, rooms: list[Room], *, patience: float) -> None:
        self._pinned[group] = {room.node for room in rooms if room.node}
        self._after(group, lambda: self._reserve(group, rooms, patience))

    def release(self, group: str) -> None:
        if work := self._work.get(group):
            work.cancel()
        self._pinned.pop(group, None)
        self._after(group, lambda: self._remove(group))

    def see(self, alive: set[str]) -> None:
        """Give up what has no node left: Ray would wait for it for ever."""
        self._alive = alive
        for group, nodes in list(self._pinned.items()):
            if nodes and not nodes & alive:
                log.info("group %s had its room on nodes that are gone", group)
                waiting = group in self._work
                self.release(group)
                if waiting:
                    self._say(ReserveFailed(group, self._gone(nodes)))

    async def remove_all(self) -> list[str]:
        """Remove every group of ours; returns a line for each that stays."""
        for group in await in_thread(self.find):
            self.release(group)
        await asyncio.gather(*self._work.values(), return_exceptions=True)
        return [f"group {group}" for group in await in_thread(self.find)]

    def _after(self, group: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        earlier = self._work.get(group)

        async def run() -> None:
            if earlier is not None:
                await ended(earlier)  # what is made in a thread is made, whoever has given up waiting for it
            await work()

        task = self._work[group] = asyncio.create_task(run(), name=f"group {group}")
        task.add_done_callback(lambda ended: self._on_done(group, ended))

    def _on_done(self, group: str, task: asyncio.Task[None]) -> None:
        if self._work.get(group) is task:
            del self._work[group]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("group %s: %r", group, error)

    async def _reserve(self, group: str, rooms: list[Room], patience: float) -> None:
        gone = {room.node for room in rooms if room.node} - (self._alive or set())
        if self._alive is not None and gone:
            self._fail(group, self._gone(gone))
            return
        try:
            made = await in_thread(self._make, group, rooms)
            await asyncio.wait_for(ready(made), max(patience, 0.0))
            devices = await self._devices(group, made, rooms)
            entry = await in_thread(placement_group_table, made)
        except TimeoutError:
            await self._remove(group)
            self._fail(group, f"there was no room for it on the Ray cluster within {patience:g} s")
            return
        except (RayError, ValueError) as error:
            await self._remove(group)
            self._fail(group, f"Ray says: {error}")
            return
        nodes = [entry["bundles_to_node_id"][index] for index in range(len(rooms))]
        self._pinned[group] = set(nodes)
        self._say(Reserved(group, nodes, devices))

    def _fail(self, group: str, reason: str) -> None:
        self._pinned.pop(group, None)
        self._say(ReserveFailed(group, reason))

    @staticmethod
    def _gone(nodes: set[str]) -> str:
        return f"node {', '.join(sorted(nodes))} is not there any more"

    def _make(self, group: str, rooms: list[Room]) -> PlacementGroup:
        name = self._prefix + group
        try:
            return get_placement_group(name)
        except ValueError:
            pass  # the usual case
        return placement_group(
            [bundle_of(room) for room in rooms],
            name=name,
            lifetime="detached",
            bundle_label_selector=[selector_of(room) for room in rooms],
        )

    async def _remove(self, group: str) -> None:
        def remove() -> None:
            try:
                remove_placement_group(get_placement_group(self._prefix + group))
            except ValueError:
                pass  # it is not there

        await in_thread(remove)

    # Devices

    async def _devices(self, group: str, made: PlacementGroup, rooms: list[Room]) -> list[list[str]]:
        asked = [self._ask_devices(group, made, index, room.gpus) for index, room in enumerate(rooms)]
        return await asyncio.wait_for(asyncio.gather(*asked), DEVICES_SECONDS)

    async def _ask_devices(self, group: str, made: PlacementGroup, index: int, gpus: float) -> list[str]:
        if gpus <= 0:
            return []
        actor = await in_thread(self._device_actor, group, made, index, gpus)
        devices: Awaitable[list[str]] = asyncio.wrap_future(actor.devices.remote().future())
        return await devices

    def _device_actor(self, group: str, made: PlacementGroup, index: int, gpus: float) -> Any:
        return (
            ray.remote(DeviceActor)
            .options(
                name=f"{self._prefix}{group}-devices-{index}",
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                num_gpus=gpus,
                max_restarts=-1,  # the bundle keeps its devices: another process finds the same
                scheduling_strategy=PlacementGroupSchedulingStrategy(made, placement_group_bundle_index=index),
            )
            .remote()
        )
