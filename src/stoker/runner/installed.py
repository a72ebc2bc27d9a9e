"""What is installed where user code runs, as a gang's ranks tell it: they must agree on it."""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache

_ENDINGS = (".dist-info", ".egg-info")
_SEPARATORS = re.compile(r"[-_.]+")


@lru_cache(maxsize=1)
def installed() -> list[str]:
    """Return ``name==version`` of each distribution that can be imported, sorted; Python's minor version among them.

    It goes by the names of their metadata alone, so that some hundred cost a millisecond. It is read once in a process:
    what is installed later is nothing that others were started with.
    """
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for entry in sys.path:
        for name, version in _distributions(entry):
            found.setdefault(name, version)  # the first on the path is the one that is imported
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _distributions(entry: str) -> list[tuple[str, str]]:
    try:
        names = os.listdir(entry)  # noqa: PTH208 - strings are all that is needed
    except OSError:
        return []  # a zip file, or nothing at all
    pairs = []
    for file in sorted(names):
        if file.endswith(_ENDINGS):
            name, _, version = file.rpartition(".")[0].partition("-")
            if version:
                pairs.append((_SEPARATORS.sub("-", name).lower(), version))
    return pairs
