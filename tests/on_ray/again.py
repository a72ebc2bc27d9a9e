"""Tests of one machine, to be run again on a Ray."""

from __future__ import annotations

from types import ModuleType


def again(module: ModuleType, *, without: dict[str, str]) -> dict[str, object]:
    """Return the tests of a module and what they need, for another module to have; ``without``: what not, and why."""
    found = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    for name in without:
        del found[name]  # one that is not there any more is an error
    return found
