"""What this machine has, as far as this process may use it: cores and bytes.

The smallest of what the hardware, the CPU affinity and the cgroups above us allow. ``STOKER_NODE_CPUS`` and
``STOKER_NODE_MEMORY`` say how much of that is Stoker's.
"""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from stoker.engine.local.cgroups import Cgroups
from stoker.errors import InvalidOption
from stoker.quantities import parse_size

CPUS_VARIABLE = "STOKER_NODE_CPUS"
MEMORY_VARIABLE = "STOKER_NODE_MEMORY"
UNLIMITED_BYTES = 1 << 60  # version 1 writes "no limit" as a number near 2**63


@dataclass(frozen=True)
class NodeSize:
    """Cores and bytes of a node."""

    cpus: float
    memory: int


def node_size(cgroups: Cgroups | None = None) -> NodeSize:
    """Return what this node has for Stoker.

    Raises:
        InvalidOption: one of the two variables does not hold a positive number or size.
    """
    cgroups = cgroups or Cgroups.of_this_process()
    return NodeSize(cpus=_chosen_cpus() or _cpus(cgroups), memory=_chosen_memory() or _memory(cgroups))


def node_labels() -> dict[str, str]:
    """Return what tells this node from others."""
    return {"arch": platform.machine(), "os": platform.system().lower(), "host": platform.node()}


def _chosen_cpus() -> float:
    text = os.environ.get(CPUS_VARIABLE, "")
    try:
        value = float(text) if text else 0.0
    except ValueError:
        value = -1.0
    if text and not 0 < value < math.inf:
        raise InvalidOption(f"{CPUS_VARIABLE}={text!r} is not a positive number of cores.")
    return value


def _chosen_memory() -> int:
    text = os.environ.get(MEMORY_VARIABLE, "")
    if text.isdigit():
        return int(text)
    return parse_size(text, option=MEMORY_VARIABLE) if text else 0


def _cpus(cgroups: Cgroups) -> float:
    found = [float(len(os.sched_getaffinity(0)))]
    for directory in cgroups.lineage("cpu"):
        words = _read(directory / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            found.append(int(words[0]) / int(words[1]))
        quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            found.append(int(quota) / int(period))
    return min(found)


def _memory(cgroups: Cgroups) -> int:
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for directory in cgroups.lineage("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(directory / name)
            if text.isdigit() and int(text) < UNLIMITED_BYTES:
                found.append(int(text))
    return min(found)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # not every file is there in every version, nor at the root
