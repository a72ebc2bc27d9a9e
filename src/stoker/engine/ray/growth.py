"""Whether a cluster will have more nodes than it has: what no node can hold waits for them, or is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stoker.types import Growth

RETURN_SECONDS = 120.0  # in which a node that died, or was away together with the head, may have been started again
OF_ONE_NODE = re.compile("node_[0-9a-f]{56}")


def growth(*, adds_nodes: bool, lost_at: float | None, arriving: Iterable[bool], now: float) -> Growth:
    """Return how nodes may come.

    ``adds_nodes``: the cluster adds some for what waits. ``lost_at``: when one was seen to be gone last. ``arriving``:
    of each node that the cluster has, whether its agent is still on its way.
    """
    comes_back = lost_at is not None and now - lost_at < RETURN_SECONDS
    return Growth.BY_ITSELF if adds_nodes or comes_back or any(arriving) else Growth.BY_HAND


def adds_nodes_of(kinds: Iterable[str]) -> bool | None:
    """Return whether an autoscaler that tells these kinds of nodes apart adds any; None where it tells none.

    One that only looks on, as that of a head which was started by hand, has a kind for each node: ``node_`` and its id.
    """
    kinds = set(kinds)
    return None if not kinds else any(OF_ONE_NODE.fullmatch(kind) is None for kind in kinds)
