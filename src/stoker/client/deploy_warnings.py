"""What whoever deploys an app is to know besides its version: what does not start, and what may not later."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from stoker.types import FunctionSpec


def of_not_ready(app: str, version: int, not_ready: Mapping[str, str], goes_on: Mapping[str, int]) -> Iterator[str]:
    """Yield why a version cannot answer, for each function that does not start; ``goes_on`` is what does meanwhile."""
    for name, told in not_ready.items():
        if before := goes_on.get(name):
            what, then = f", and version {before} goes on until it is", f"`stoker apps rollback {app}` calls it off"
        else:
            what, then = "", "it is tried again, less and less often, until the next deploy"
        yield (
            f"{app}.{name} is not ready in version {version}{what}: {told}\n"
            f"`stoker logs --app {app}` has its output; {then}."
        )


def of_replaced(app: str, version: int, by: int | None) -> Iterator[str]:
    """Yield that a version was replaced before anybody has seen that it is ready."""
    if by is not None:
        what = f"version {by} of {app} has replaced version {version}" if by else f"{app} was stopped"
        yield (
            f"{what} before that was seen to be ready: it answers no calls. `stoker apps history {app}` shows who "
            "deployed what."
        )


def of_gone(gone: Sequence[str]) -> Iterator[str]:
    """Yield which functions only the version before has."""
    if gone:
        yield f"what the version before has, and this one has not: {', '.join(gone)}"


def of_untried(untried: Mapping[str, str]) -> Iterator[str]:
    """Yield of which functions nobody knows yet whether the new version of them starts."""
    for why in sorted({*untried.values()}):
        names = ", ".join(sorted(name for name, one in untried.items() if one == why))
        yield f"{names} took over untried: {why}"


def of_own_environment(own: Sequence[str], *, count: int) -> Iterator[str]:
    """Yield which functions run in the caller's environment; ``count`` is how many there are."""
    if own:
        who = "runs" if len(own) == count else f"{', '.join(sorted(own))}: runs"
        yield (
            f"{who} in your own environment ({sys.prefix}): a change of that stops it until it is deployed again; "
            "Image.python().pip_install(…) pins what it needs"
        )


def in_own(functions: Sequence[FunctionSpec]) -> list[str]:
    """Return the names of those that run in the caller's environment, and no more once that has changed."""
    return [one.name for one in functions if one.image.local is not None and not one.image.local.frozen]
