"""Names below which a server's own pages are: nothing that is reached over HTTP can have them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.errors import InvalidOption
from stoker.types import FunctionSpec

PAGES_OF_APP = ("docs", "openapi.json")
PAGES_OF_SERVER = ("v1", "healthz", "metrics")


def is_reached(spec: FunctionSpec) -> bool:
    """Tell whether a function, or a method of a class, is called over HTTP."""
    return spec.web is not None or any(one.web is not None for one in spec.methods.values())


def check_names(app: str, specs: Sequence[FunctionSpec]) -> None:
    """See that what is reached over HTTP has a path of its own.

    Raises:
        InvalidOption: its path is that of a page of the server.
    """
    reached = [spec.name for spec in specs if is_reached(spec)]
    if reached and app in PAGES_OF_SERVER:
        raise InvalidOption(
            f"The app {app!r} has functions that are reached over HTTP, as {reached[0]!r}, and /{app} is the server's "
            "own there. Give the app another name."
        )
    for name in reached:
        if name in PAGES_OF_APP:
            raise InvalidOption(
                f"{app}.{name} is reached over HTTP, and /{app}/{name} is the app's own page there. Give it another "
                "name, by name=…."
            )
