"""One lock for a recipe on all nodes: whoever resolves first decides what the others install too.

Nodes that resolved by themselves could get versions that came out in between, and ranks of one gang, or two runs of one
call, would not run the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from stoker.images.frozen import frozen_digest
from stoker.images.recipe import packages_of
from stoker.types import ImageSpec

Agree: TypeAlias = Callable[[str, str], str]
"""``agree(name, text)`` proposes a lock, or with no text only asks; it returns the one that all go by, if any."""


def alone(name: str, text: str) -> str:
    """Agree with nobody: the locks of this machine's disk are all that there is."""
    return text


def lock_name(recipe: str, python_version: str) -> str:
    """Return the name of a recipe's lock: the recipe says the platform, its Python may be of any patch release."""
    return f"{recipe}-{'.'.join(python_version.split('.')[:2])}"


def is_resolved(spec: ImageSpec) -> bool:
    """Tell whether a recipe has a lock that can turn out differently: what is frozen is one already."""
    return spec.local is None and not frozen_digest(spec) and not packages_of(spec).empty
