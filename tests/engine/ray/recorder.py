"""A `RayCluster` whose events are kept, and awaited."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stoker.engine.ray.cluster import AgentOrder, ClusterEvent, ClusterNode, NodesSeen
from stoker.engine.ray.ray_cluster import RayCluster

T = TypeVar("T")

PATIENCE_SECONDS = 40.0


class Recorder:
    """See the module."""

    def __init__(self, *, address: str, owner: str, state_dir: Path) -> None:
        self.cluster = RayCluster(address=address, owner=owner, state_dir=state_dir)
        self.events: list[ClusterEvent] = []
        self.cluster.set_listener(self.events.append)
        self.bridge_log = state_dir / "ray-bridge.log"

    @property
    def nodes(self) -> list[ClusterNode]:
        """Return the nodes as they were seen last."""
        return next(event.nodes for event in reversed(self.events) if isinstance(event, NodesSeen))

    def node(self, id: str) -> ClusterNode:
        return next(node for node in self.nodes if node.id == id)

    async def until(self, check: Callable[[], T | None], *, timeout: float = PATIENCE_SECONDS) -> T:
        """Wait until ``check`` returns something true, and return that."""
        deadline = time.monotonic() + timeout
        while not (found := check()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:g} s; events: {self.events}")
            await asyncio.sleep(0.02)
        return found

    async def event(self, kind: type[T], since: int = 0, **fields: Any) -> T:
        """Wait for an event of this kind, with these fields, from the ``since``-th on, and return it."""

        def look() -> T | None:
            for event in self.events[since:]:
                if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                    return event
            return None

        found = await self.until(look)
        assert found is not None
        return found


def order(node: str, *, behaviour: str = "", grace: float = 30.0) -> AgentOrder:
    """Return an order for an agent's stand-in; see `agent_stand_in` for how it may behave."""
    server = f"stoker://10.0.0.1:4000{behaviour}"
    return AgentOrder(node, server, "secret-token", fingerprint="ab" * 32, grace=grace, cpus=3.0, memory=1 << 30)


def note_of(place: Path, node: str, owner: str = "tests") -> dict[str, Any] | None:
    """Return what the stand-in on a node has noted, when it has."""
    path = place / "home" / "nodes" / f"{owner}-{node[:12]}" / "note.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; as a zombie it may still be there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def bridge_of(recorder: Recorder) -> int:
    """Return the pid of the bridge: the child of this process that is one."""
    for entry in Path("/proc").iterdir():
        try:
            is_bridge = b"stoker.engine.ray.bridge" in (entry / "cmdline").read_bytes()
            if is_bridge and (entry / "fd" / "2").readlink() == recorder.bridge_log:
                return int(entry.name)
        except OSError:
            continue
    return 0
