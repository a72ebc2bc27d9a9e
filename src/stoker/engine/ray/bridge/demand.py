"""What waits for room that no node has: a pending placement group each, so that Ray's autoscaler sees it.

They end with the bridge, and hold nothing: one that gets room, because a node came or something ended, gives it back at
once. What it stood for is asked for as a group of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from stoker.engine.ray.bridge.groups import bundle_of, ready, selector_of
from stoker.engine.ray.bridge.threads import in_thread
from stoker.engine.ray.cluster import Room

DEMAND_MAX = 100  # pending groups: Ray looks through all of them at each change
MET_SECONDS = 5.0  # room that was there and is still asked for after this was taken by another: it is asked for again
log = logging.getLogger("stoker.engine.ray")


@dataclass
class _Want:
    """One pending group. ``task`` makes it, waits for its room and removes it."""

    room: Room
    task: asyncio.Task[None]


class Demand:
    """See the module."""

    def __init__(self) -> None:
        self._wants: list[_Want] = []

    def say(self, rooms: list[Room]) -> None:
        """Have a pending group for each of these; only what is another than before is made or removed."""
        missing = Counter(map(_key, rooms[:DEMAND_MAX]))
        kept = []
        for want in self._wants:
            if missing[_key(want.room)] > 0:
                missing[_key(want.room)] -= 1
                kept.append(want)
            else:
                want.task.cancel()
        self._wants = kept
        by_key = {_key(room): room for room in rooms}
        for key, count in missing.items():
            for _ in range(count):
                self._want(by_key[key])

    async def withdraw(self) -> None:
        tasks = [want.task for want in self._wants]
        self.say([])
        await asyncio.gather(*tasks, return_exceptions=True)

    def _want(self, room: Room) -> None:
        want = _Want(room, asyncio.create_task(self._wait(room), name="demand"))
        want.task.add_done_callback(lambda task: self._on_done(want))
        self._wants.append(want)

    def _on_done(self, want: _Want) -> None:
        if want in self._wants:
            self._wants.remove(want)
        if not want.task.cancelled() and (error := want.task.exception()) is not None:
            log.warning("what waits for room could not be told to Ray: %r", error)

    async def _wait(self, room: Room) -> None:
        while True:
            making = asyncio.ensure_future(in_thread(_make, room))
            try:
                await ready(await asyncio.shield(making))
            except RayError as error:
                log.info("a pending group was removed by somebody else: %r", error)
            finally:
                await in_thread(remove_placement_group, await making)
            await asyncio.sleep(MET_SECONDS)


def _make(room: Room) -> PlacementGroup:
    return placement_group([bundle_of(room)], bundle_label_selector=[selector_of(room)])


def _key(room: Room) -> tuple[object, ...]:
    return (room.cpus, room.memory, room.gpus, tuple(sorted(room.resources.items())), room.node)
