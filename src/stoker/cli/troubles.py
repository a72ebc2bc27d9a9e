"""What is wrong with the workers of functions, below a table of them."""

from __future__ import annotations

from collections.abc import Mapping

from stoker.cli.screen import say


def show_troubles(troubles: Mapping[str, str]) -> None:
    """Print a sentence for each function whose workers do not start, do not stay or are unwell; and where to look."""
    for label, told in troubles.items():
        say(f"\n{label}: {told}")
    if troubles:
        app, _, name = next(iter(troubles)).partition(".")
        say(f"\n`stoker logs --app {app} --function {name}` has all of it, and what its workers have printed.")
