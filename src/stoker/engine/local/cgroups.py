"""Where this process stands in the cgroup trees, and where it may make groups of its own.

Version 1 has a tree for each controller, version 2 one for all. Paths are relative to what is mounted: inside a
container without a cgroup namespace the mount shows only a part of the tree, so the mount's own root is cut off first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree: its mount point, and the directory of this process's group in it."""

    mount: Path
    own: Path


@dataclass(frozen=True)
class Cgroups:
    """The trees by controller. ``unified`` is version 2's, if it is mounted."""

    v1: dict[str, Hierarchy]
    unified: Hierarchy | None

    @classmethod
    def of_this_process(cls) -> Cgroups:
        return cls.parse(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())

    @classmethod
    def parse(cls, mountinfo: str, membership: str) -> Cgroups:
        """Read the two files' text."""
        paths = dict(_memberships(membership))
        v1: dict[str, Hierarchy] = {}
        unified = None
        for root, mount, kind, options in _cgroup_mounts(mountinfo):
            if kind == "cgroup2" and "" in paths:
                unified = _hierarchy(mount, root, paths[""])
            for controller in options if kind == "cgroup" else ():
                if controller in paths:
                    v1[controller] = _hierarchy(mount, root, paths[controller])
        return cls(v1, unified)

    def lineage(self, controller: str) -> list[Path]:
        """Return the directories of our group and those above it, nearest first, where this controller may be."""
        found = []
        for tree in filter(None, (self.v1.get(controller), self.unified)):
            at = tree.own
            while at != tree.mount and tree.mount in at.parents:
                found.append(at)
                at = at.parent
            found.append(tree.mount)
        return found


def _hierarchy(mount: Path, root: str, path: str) -> Hierarchy:
    relative = path[len(root) :] if root != "/" and path.startswith(root) else path
    own = mount / relative.lstrip("/")
    return Hierarchy(mount, own if own.is_dir() else mount)


def _memberships(text: str) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found += [(controller, path) for controller in controllers.split(",")]
    return found


def _cgroup_mounts(text: str) -> list[tuple[str, Path, str, list[str]]]:
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            found.append((fields[3], Path(fields[4]), kind, options.split(",")))
    return found


def writable(directory: Path) -> bool:
    """Tell whether we may make groups here and move processes into them."""
    return os.access(directory, os.W_OK | os.X_OK) and os.access(directory / "cgroup.procs", os.W_OK)
