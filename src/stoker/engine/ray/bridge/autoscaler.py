"""Whether Ray's autoscaler adds nodes to a cluster. Every head that is started by hand has one that only looks on.

The first generation leaves a report under a key of the head, the second one hands its state to the head itself.
"""

from __future__ import annotations

import json
import time
from typing import Any

from stoker.engine.ray.growth import adds_nodes_of

STATUS_KEY = b"__autoscaling_status"
V2_KEY, V2_NAMESPACE = b"__autoscaler_v2_enabled", b"__autoscaler"
LOOK_SECONDS = 5.0  # as often as it reports
REPORT_SECONDS = 15.0  # in which the one of a cluster that has just been started reports; none may be there
ASK_SECONDS = 5.0


class Autoscaler:
    """See the module. `look` blocks until the head answers."""

    def __init__(self) -> None:
        self._since = self._looked = time.monotonic()
        self._found: bool | None = None

    def look(self) -> bool:
        """Tell whether nodes are added for what waits; while nothing has been reported yet, they might be."""
        now = time.monotonic()
        if self._found is None or now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._found = adds_nodes_of(_kinds())
        return now - self._since < REPORT_SECONDS if self._found is None else self._found


def _kinds() -> set[str]:
    """Return the kinds of nodes that the autoscaler tells apart; none before its first report."""
    import ray._private.worker

    worker: Any = ray._private.worker.global_worker
    head = worker.gcs_client
    if head.internal_kv_get(V2_KEY, namespace=V2_NAMESPACE) == b"1":
        return _kinds_of_state(head)
    report = head.internal_kv_get(STATUS_KEY, namespace=None)
    found: dict[str, Any] = json.loads(report).get("autoscaler_report") or {} if report else {}
    return {*found.get("active_nodes", ()), *(found.get("idle_nodes") or ())}


def _kinds_of_state(head: Any) -> set[str]:
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    reply.ParseFromString(head.get_cluster_status(timeout_s=ASK_SECONDS))
    if not reply.HasField("autoscaling_state"):
        return set()
    nodes = reply.cluster_resource_state.node_states
    return {node.ray_node_type_name or f"node_{node.node_id.hex()}" for node in nodes}
