"""The nodes of a cluster, as its head knows them."""

from __future__ import annotations

from typing import Any

import ray
from ray._private.state import state

from stoker.engine.ray.cluster import ClusterNode

NO_DEADLINE = 4102444800.0  # the year 2100: a node that is to be left, with no time by which
_OWN_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")


def look() -> list[ClusterNode]:
    """Ask the head for every node that is alive; blocks until it answers."""
    known = [node for node in ray.nodes() if node["Alive"]]
    free = state.available_resources_per_node()
    draining = state.get_draining_nodes()
    nodes = [_node(node, free.get(node["NodeID"], {}), draining) for node in known]
    return sorted(nodes, key=lambda node: node.id)


def _node(known: dict[str, Any], free: dict[str, float], draining: dict[str, int]) -> ClusterNode:
    total = known["Resources"]
    deadline = draining.get(known["NodeID"])
    return ClusterNode(
        id=known["NodeID"],
        address=known["NodeManagerAddress"],
        cpus=total.get("CPU", 0.0),
        memory=int(total.get("memory", 0)),
        cpus_free=free.get("CPU", 0.0),
        memory_free=int(free.get("memory", 0)),
        gpus=total.get("GPU", 0.0),
        gpus_free=free.get("GPU", 0.0),
        resources=_custom(total),
        resources_free={name: free.get(name, 0.0) for name in _custom(total)},
        labels=known.get("Labels") or {},
        draining=0.0 if deadline is None else deadline / 1000 or NO_DEADLINE,
    )


def _custom(resources: dict[str, float]) -> dict[str, float]:
    """Leave out what Ray counts for itself: its own, one per node, and those of placement groups."""
    return {
        name: amount
        for name, amount in resources.items()
        if name not in _OWN_RESOURCES and not name.startswith("node:") and "_group_" not in name
    }
