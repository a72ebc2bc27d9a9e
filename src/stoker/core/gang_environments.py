"""Whether the ranks of a gang have the same installed; what was built at different times on two nodes may not be."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN_MAX = 5  # packages that an error names


def disagreement(nodes: Sequence[str], installed: Sequence[Sequence[str]]) -> str:
    """Return which rank has what else than rank 0, for people; empty where all agree.

    ``nodes`` and ``installed`` (``name==version`` each) are by rank. Only what both have counts: an environment that
    was rebuilt elsewhere need not have every tool of the one that it was made from. A rank that said nothing agrees.
    """
    first = installed[0]
    for rank, other in enumerate(installed):
        if not other or not first or other == first:
            continue
        ours, theirs = _versions(first), _versions(other)
        names = [name for name in sorted(ours.keys() & theirs.keys()) if ours[name] != theirs[name]]
        if names:
            more = f" (and {len(names) - SHOWN_MAX} more)" if len(names) > SHOWN_MAX else ""
            names = names[:SHOWN_MAX]
            return (
                f"rank 0 on node {nodes[0]} has {_listed(names, ours)}, "
                f"rank {rank} on node {nodes[rank]} has {_listed(names, theirs)}{more}"
            )
    return ""


def _versions(installed: Sequence[str]) -> dict[str, str]:
    return dict(line.split("==", 1) for line in installed if "==" in line)


def _listed(names: Sequence[str], versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in names)
